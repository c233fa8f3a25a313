"""Integration with noise: dx_i = (the model's velocity) dt + sigma P_{x_i} o dW_i, in the sense of Stratonovich.

That is Brownian motion on the sphere: without drift, E<x(t), x(0)> = exp(-(d - 1) sigma^2 t / 2). The scheme is Heun's,
with steps of one size (shortened to land on the recorded times) and states normalised after each: of strong order 1/2,
and weak order 1. Each sample has noise of its own, which is the same for every beta, so that betas differ by no chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor

from ontogeny.dynamics.particles.model import Model
from ontogeny.dynamics.particles.sphere import normalised, tangent
from ontogeny.dynamics.particles.step import Step, pool_size

BLOCK = 64


def noisy(
    model: Model,
    beta: Tensor,
    x: Tensor,
    source: Callable[[int], np.random.Generator],
    sample: Tensor,
    *,
    sigma: float,
    times: np.ndarray,
    horizon: float,
    longest: float,
    budget: int,
    tries: Tensor,
) -> Iterator[Step]:
    """The steps of trajectories from states `x` (B, n, d) with `beta` (B,), none longer than `longest`.

    Trajectory b takes the noise of `sample[b]`, from its `source`. `tries` (B,) is counted up by every step; all stop
    after `budget` of them.
    """
    for rows in torch.arange(len(x)).split(pool_size(x.shape[1])):
        drawn, place = sample[rows].unique(return_inverse=True)
        sources = [source(one) for one in drawn.tolist()]
        some, beta_there = x[rows], beta[rows, None, None]
        for number, (start, end) in enumerate(islice(spans(times, horizon, longest), budget)):
            if number % BLOCK == 0:
                block = torch.from_numpy(np.stack([one.standard_normal((BLOCK, *x.shape[1:])) for one in sources]))
            kick = sigma * (end - start) ** 0.5 * block[place, number % BLOCK]
            after = heun(model, beta_there, some, end - start, kick)
            tries[rows] += 1
            begun, ended = (some.new_full((len(rows),), one) for one in (start, end))
            going_on = torch.zeros(len(rows), dtype=torch.bool)
            yield Step(rows, begun, ended, after, Chord(some, after), going_on)
            some = after


def heun(model: Model, beta: Tensor, x: Tensor, h: float, kick: Tensor) -> Tensor:
    """One step of size h from states x (B, n, d), with the noise's increments `kick` (B, n, d): sigma dW."""
    drift = model.velocity(x, beta)
    ahead = normalised(x + h * drift + tangent(x, kick))
    drift = (drift + model.velocity(ahead, beta)) / 2
    return normalised(x + h * drift + (tangent(x, kick) + tangent(ahead, kick)) / 2)


def spans(times: np.ndarray, horizon: float, longest: float) -> Iterator[tuple[float, float]]:
    """Start and end of every step from 0 to the horizon: equal steps from one of `times` to the next."""
    marks = np.unique([0.0, *times, horizon]).tolist()
    for begin, end in pairwise(marks):
        number = math.ceil((end - begin) / longest * (1 - 1e-12))
        at = begin
        for step in range(1, number + 1):
            after = end if step == number else begin + (end - begin) * step / number
            yield at, after
            at = after


@dataclass(frozen=True)
class Chord:
    """The states inside a step of which nothing is known but its ends: along the chord, on the sphere."""

    x0: Tensor
    x: Tensor

    def path(self, which: Tensor, particle: Tensor) -> Tensor:
        """See `Inside.path`: of degree 1."""
        x0 = self.x0[which, particle]
        return torch.stack([x0, self.x[which, particle] - x0], dim=-1)
