"""Steps of trajectories, and the states inside them: what integration yields and recording takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ontogeny.dynamics.particles.sphere import normalised

POOL_BYTES = 2 << 20


def pool_size(n: int) -> int:
    """How many trajectories of n particles move at a time: as many as have their (n, n) arrays in the cache."""
    return max(1, POOL_BYTES // (8 * n * n))


class Inside(Protocol):
    """The states inside a step."""

    def path(self, which: Tensor, particle: Tensor) -> Tensor:
        """Coefficients (..., d, degree + 1) of polynomials in the share of the step done, which lead along the sphere.

        Those of particles `particle` of the step's trajectories `which`, integers that broadcast to (...).
        """
        ...


@dataclass(frozen=True)
class Step:
    """One step of some trajectories of a batch, each of its own size.

    `rows` (m,) are their places in the batch, `start` and `end` (m,) the step's times, `x` (m, n, d) the states at its
    end, `settled` (m,) whether those will not change any more.
    """

    rows: Tensor
    start: Tensor
    end: Tensor
    x: Tensor
    inside: Inside
    settled: Tensor

    def at(self, which: Tensor, share: Tensor) -> Tensor:
        """The states (k, n, d) of the step's trajectories `which` (k,), with `share` (k,) of the step done."""
        paths = self.inside.path(which[:, None], torch.arange(self.x.shape[1]))
        return along(paths, share[:, None])

    def backwards(self) -> Step:
        """The same step from its end to its start."""
        x0 = self.at(torch.arange(len(self.rows)), torch.zeros_like(self.start))
        return replace(self, start=self.end, end=self.start, x=x0, inside=_Backwards(self.inside))


@dataclass(frozen=True)
class _Backwards:
    """The states inside a step, from its end to its start."""

    inside: Inside

    def path(self, which: Tensor, particle: Tensor) -> Tensor:
        """See `Inside.path`: the coefficients of p(1 - share), by the binomial theorem."""
        path = self.inside.path(which, particle)
        degrees = range(path.shape[-1])
        return path @ path.new_tensor(
            [[(-1) ** power * math.comb(degree, power) for power in degrees] for degree in degrees]
        )


def along(path: Tensor, share: Tensor) -> Tensor:
    """The states (..., d) on the sphere, `share` (...) along paths (..., d, degree + 1)."""
    powers = share[..., None] ** torch.arange(path.shape[-1], dtype=share.dtype)
    return normalised((path @ powers[..., None])[..., 0])
