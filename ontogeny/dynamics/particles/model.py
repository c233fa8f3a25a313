"""The self-attention model: the velocity of particles on the sphere (arXiv 2312.10794).

With scores s_ij = beta <Q x_i, K x_j>, a particle moves by

    dx_i/dt = P_{x_i}[ sum over heads of sum_j a_ij V x_j ],   P_x y = y - <x, y> x,

where the weights a_ij are those of softmax (`sa`), of exp(s_ij - beta) / n (`usa`), or of a mechanism of
`ontogeny.kernels`. The shift by beta measures the time of USA in units in which a cluster contracts at a rate of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ontogeny.dynamics.particles.sphere import tangent
from ontogeny.kernels.mechanisms import MECHANISMS, ScoredRows

SELF_ATTENTION, UNNORMALISED = "sa", "usa"
KINDS = (SELF_ATTENTION, UNNORMALISED, *MECHANISMS)


@dataclass(frozen=True)
class Head:
    """The matrices of one head, (d, d) each; None is the identity."""

    Q: Tensor | None = None
    K: Tensor | None = None
    V: Tensor | None = None


@dataclass(frozen=True)
class Model:
    """A self-attention model of `kind` "sa", "usa" or the name of a mechanism. A sink logit is 0.

    With `causal` a particle sees those of lower index and itself (arXiv 2411.04990); `usa`, `relu` and `sigmoid`
    divide by n all the same.
    """

    kind: str = SELF_ATTENTION
    heads: tuple[Head, ...] = field(default=(Head(),))
    causal: bool = False

    @property
    def values_are_identity(self) -> bool:
        """Whether V = I in every head: then particles at one place do not move one another."""
        return all(head.V is None for head in self.heads)

    def velocity(self, x: Tensor, beta: Tensor, apart: Tensor | None = None) -> Tensor:
        """dx/dt, (B, n, d), at states (B, n, d) and `beta` (B, 1, 1).

        `apart` (B, n, n) is 0.0 for particles at one place and 1.0 for others. Where V = I those at one place do not
        move one another, and are left out: rounding of their pull would drown the others', exponentially small in beta.
        """
        moved = torch.zeros_like(x)
        for head in self.heads:
            weights = self.weights(x, beta, head)
            if not self.values_are_identity:
                pull = weights @ x
                moved += pull if head.V is None else pull @ head.V.mT
                continue
            if apart is None:
                weights.diagonal(dim1=-2, dim2=-1).zero_()
            else:
                weights.mul_(apart)
            moved += weights @ x
        return tangent(x, moved)

    def weights(self, x: Tensor, beta: Tensor, head: Head) -> Tensor:
        """a_ij of one head, (B, n, n), anew at each call."""
        queries = beta * (x if head.Q is None else x @ head.Q.mT)
        scores = queries @ (x if head.K is None else x @ head.K.mT).mT
        if self.causal:
            n = x.shape[-2]
            scores.masked_fill_(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
        if self.kind == SELF_ATTENTION:
            weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()  # twice as fast as torch's softmax
            return weights.div_(weights.sum(-1, keepdim=True))
        if self.kind == UNNORMALISED:
            return scores.sub_(beta).exp_().div_(x.shape[-2])
        mechanism = MECHANISMS[self.kind]
        keys = torch.tensor([x.shape[-2]])
        sinks = torch.zeros(1, dtype=x.dtype) if mechanism.takes_sinks else None
        return mechanism.weight(scores, mechanism.threshold(ScoredRows(scores, keys, sinks)))
