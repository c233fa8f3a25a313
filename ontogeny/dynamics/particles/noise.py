"""Integration with noise: dx_i = (the model's velocity) dt + sigma P_{x_i} o dW_i, in the sense of Stratonovich.

That is Brownian motion on the sphere: without drift, E<x(t), x(0)> = exp(-(d - 1) sigma^2 t / 2). The scheme is Heun's,
with steps of one size (shortened to land on the recorded times) and states normalised after each: of strong order 1/2,
and weak order 1. Each sample has noise of its own, which is the same for every beta, so that betas differ by no chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ontogeny.dynamics.particles.model import Model
from ontogeny.dynamics.particles.sphere import normalised, tangent
from ontogeny.dynamics.particles.step import Step

BLOCK = 64


def noisy(
    model: Model,
    beta: Tensor,
    x: Tensor,
    sources: list[np.random.Generator],
    source: Tensor,
    *,
    sigma: float,
    grid: np.ndarray,
    budget: int,
    tries: Tensor,
) -> Iterator[Step]:
    """The steps of trajectories from states `x` (B, n, d) with `beta` (B,), at the times of `grid` (from 0 on).

    Trajectory b takes its noise from `sources[source[b]]`. `tries` (B,) is counted up by every step; all stop after
    `budget` of them.
    """
    beta = beta[:, None, None]
    rows = torch.arange(len(x))
    going_on = torch.zeros(len(x), dtype=torch.bool)
    for step, (start, end) in enumerate(zip(grid[:budget], grid[1 : budget + 1], strict=False)):
        if step % BLOCK == 0:
            block = np.stack([one.standard_normal((BLOCK, *x.shape[1:])) for one in sources])
        h = end - start
        kick = sigma * h**0.5 * torch.from_numpy(block[:, step % BLOCK])[source]
        drift = model.velocity(x, beta)
        ahead = normalised(x + h * drift + tangent(x, kick))
        drift = (drift + model.velocity(ahead, beta)) / 2
        after = normalised(x + h * drift + (tangent(x, kick) + tangent(ahead, kick)) / 2)
        tries += 1
        times = (torch.full((len(x),), float(one), dtype=x.dtype) for one in (start, end))
        yield Step(rows, *times, after, Chord(x, after), going_on)
        x = after


def time_grid(times: np.ndarray, horizon: float, step: float) -> np.ndarray:
    """Times from 0 to the horizon, no further apart than `step`, with every one of `times` among them."""
    marks = np.unique(np.concatenate([[0.0], times, [horizon]]))
    parts = [
        np.linspace(a, b, int(np.ceil((b - a) / step * (1 - 1e-12))) + 1)[1:]
        for a, b in zip(marks, marks[1:], strict=False)
    ]
    return np.concatenate([[0.0], *parts])


@dataclass(frozen=True)
class Chord:
    """The states inside a step of which nothing is known but its ends: along the chord, on the sphere."""

    x0: Tensor
    x: Tensor

    def at(self, which: Tensor, share: Tensor) -> Tensor:
        """See `Inside.at`."""
        return normalised(torch.lerp(self.x0[which], self.x[which], share[:, None, None]))
