"""Where nearby particles draw nearer, whichever way they lie apart: a bound, of a model with V = I and no mask.

Let two particles near x be a small tangent u apart, with p_j = P_x x_j and q_j = P_x Q^T K x_j. Along u, the score of j
changes by beta <q_j, u>, and the distance |u| at a rate of at most

    sum over heads of [ |sum_j a'_j p_j| - sum_j a_j <x, x_j> |u| ],

a'_j the change of the weight a_j. Where g_j is the slope of a weight in its own score, that is g_j beta <q_j, u>, less,
if weights compete, g_j times the mean of beta <q_k, u> over k in shares g_k. Deviations from a mean are no larger than
what deviates, so that by Cauchy and Schwarz, either way,

    |sum_j a'_j p_j| <= beta |u| sqrt(sum_j g_j |p_j|^2 sum_j g_j |q_j|^2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ontogeny.dynamics.particles.model import SELF_ATTENTION, UNNORMALISED, Model

# g_j of weights a_j, or what is larger. A kind that is not here is never said to contract.
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys((SELF_ATTENTION, UNNORMALISED, "softmax", "softmax_sink", "sigmoid"), lambda a: a),
    "relu": lambda a: (a > 0).to(a.dtype) / a.shape[-1],
    "sparsemax": lambda a: (a > 0).to(a.dtype),
    "entmax15": torch.sqrt,
}


def contracts(model: Model, x: Tensor, beta: Tensor) -> Tensor:
    """Whether any two particles near each state of `x` (B, n, d) surely draw nearer, (B, n), at `beta` (B, 1, 1)."""
    if model.kind not in SLOPES:
        return torch.zeros(x.shape[:-1], dtype=torch.bool)
    cosines = x @ x.mT
    rate = torch.zeros_like(x[..., 0])
    for head in model.heads:
        weights = model.weights(x, beta, head)
        slopes = SLOPES[model.kind](weights)
        turned = x if head.K is None else x @ head.K.mT
        turned = turned if head.Q is None else turned @ head.Q
        p = 1 - cosines.square()
        q = turned.square().sum(-1)[:, None, :] - (x @ turned.mT).square()
        spread = (slopes * p).sum(-1) * (slopes * q).sum(-1)
        rate += beta[..., 0] * spread.clamp(min=0).sqrt() - (weights * cosines).sum(-1)
    return rate < 0
