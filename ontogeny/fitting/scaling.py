"""Series brought to one scale, and the weights of a robust fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.descent import descend
from ontogeny.fitting.search import best_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.descent import Linearise
    from ontogeny.fitting.projection import Projection

    Array = NDArray[np.float64]

HUBER = 1.345  # robust standard deviations: 95 % efficient where errors are normal (Huber, Robust Statistics, 1981)
NORMAL_MAD = 1.4826  # standard deviations in a median absolute deviation of normal errors
REWEIGHTINGS = 30
SETTLED = 1e-6


@dataclass(frozen=True)
class Scaled:
    """Series as `scale` * targets / roots + shift.

    `targets` (m, n) are weighted and of norm 1; `roots` (m, n) are the roots of the weights, whose mean is 1 for each
    series; `emphasis` (m, n) is that of `Projection.linearise`; `scale` and `shift` are (m,).
    """

    targets: Array
    roots: Array
    emphasis: Array
    scale: Array
    shift: Array

    @classmethod
    def of(cls, problem: Projection, values: Array, weights: Array) -> Scaled:
        """Scale `values` (m, n), none of them constant, with `weights` (m, n)."""
        roots = np.sqrt(weights / weights.mean(axis=1, keepdims=True))
        shift = np.average(values, axis=1, weights=weights)
        spread = np.abs(values - shift[:, None]).max(axis=1)
        targets = (values - shift[:, None]) / spread[:, None] * roots
        norm = np.linalg.norm(targets, axis=1)
        return cls(targets / norm[:, None], roots, roots / problem.root_weights, spread * norm, shift)


def robust_weights(problem: Projection, values: Array, weights: Array) -> Array:
    """`weights` (m, n), lessened where a residual is large for its series, by reweighting until they settle.

    A residual r counts with weight min(1, 1.345 s / |r|), s being 1.4826 times the median |r|.
    """
    scaled = Scaled.of(problem, values, weights)
    theta = best_shapes(problem, scaled.targets, scaled.emphasis).theta
    lessened = weights
    for _ in range(REWEIGHTINGS):
        linear = problem.linear(theta, scaled.targets, scaled.emphasis)
        fitted = (problem.design(theta) @ linear[..., None])[..., 0] / problem.root_weights
        residual = np.abs(values - (fitted * scaled.scale[:, None] + scaled.shift[:, None])) * np.sqrt(weights)
        bound = HUBER * NORMAL_MAD * np.median(residual, axis=1, keepdims=True)
        larger = np.maximum(residual, bound)
        factor = np.where(larger > 0, bound / np.where(larger > 0, larger, 1.0), 1.0)
        before, lessened = lessened, weights * np.maximum(factor, SETTLED)
        if np.abs(lessened - before).max() <= SETTLED * weights.max():
            break
        scaled = Scaled.of(problem, values, lessened)
        theta = descend(_linearise(problem, scaled), theta, problem.lower, problem.upper).theta
    return lessened


def _linearise(problem: Projection, scaled: Scaled) -> Linearise:
    return lambda theta, which: problem.linearise(theta, scaled.targets[which], scaled.emphasis[which])
