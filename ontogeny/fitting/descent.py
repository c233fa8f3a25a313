"""Bounded nonlinear least squares for many small problems at once: Levenberg-Marquardt steps, clipped to the bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]
    Linearise = Callable[[Array, Index], tuple[Array, Array]]

ITERATIONS = 200
STEP_TOLERANCE = 1e-10  # largest component of a step that is too short to matter
GAIN_TOLERANCE = 1e-13  # relative decrease of the sum of squares, likewise
STEP_LONGEST = 2.0
DAMPING = 1e-3
DAMPING_LOWEST_FACTOR, DAMPING_UP = 1 / 3, 4.0


class Descent(NamedTuple):
    """Where `p` problems in `k` parameters ended: `theta` (p, k), `jacobian` (p, n, k), `cost` (p,), `converged` (p,).

    `cost` is the sum of squared residuals.
    """

    theta: Array
    jacobian: Array
    cost: Array
    converged: NDArray[np.bool_]


def descend(
    linearise: Linearise, start: Array, lower: Array, upper: Array, gain_tolerance: float = GAIN_TOLERANCE
) -> Descent:
    """Minimise the sum of squared residuals of each problem from `start` (p, k) within `lower` and `upper` (k,).

    `linearise(theta, which)` gives the residuals (q, n) and their derivatives (q, n, k) of the q problems `which`, at
    theta (q, k). A problem is converged once its step is negligible, or the gain from it is at most the part
    `gain_tolerance` of its cost.
    """
    theta = np.clip(start, lower, upper)
    residual, jacobian = linearise(theta, np.arange(len(theta)))
    cost = (residual**2).sum(-1)
    damping, steepest = np.full(len(theta), DAMPING), np.zeros_like(theta)
    converged = np.zeros(len(theta), dtype=bool)
    for _ in range(ITERATIONS):
        live = np.flatnonzero(~converged)
        if not live.size:
            break
        steepest[live] = np.maximum(steepest[live], (jacobian[live] ** 2).sum(1))
        step = _step(theta[live], residual[live], jacobian[live], damping[live, None] * steepest[live], lower, upper)
        trial = np.clip(theta[live] + step, lower, upper)
        move = trial - theta[live]
        change = (jacobian[live] @ move[..., None])[..., 0]
        residuals, jacobians = linearise(trial, live)
        costs = (residuals**2).sum(-1)
        foreseen = ((residual[live] ** 2) - (residual[live] + change) ** 2).sum(-1)
        gain = cost[live] - costs
        better = gain > 0
        converged[live] = (np.abs(move).max(-1) <= STEP_TOLERANCE) | (better & (gain <= gain_tolerance * costs))
        damping[live] *= np.where(better, _easing(gain, foreseen), DAMPING_UP)
        taken = live[better]
        theta[taken], cost[taken] = trial[better], costs[better]
        residual[taken], jacobian[taken] = residuals[better], jacobians[better]
    return Descent(theta, jacobian, cost, converged)


def _step(theta: Array, residual: Array, jacobian: Array, damping: Array, lower: Array, upper: Array) -> Array:
    """The damped Gauss-Newton steps (q, k), zero for a parameter at a bound that it presses against.

    `damping` (q, k) is added to the diagonal of the normal equations. It is in proportion to the steepest that each
    parameter has been (Moré, 1978): one whose influence vanishes on the way would otherwise run off and stall the rest.
    """
    gradient = (residual[:, None] @ jacobian)[:, 0]
    pressed = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
    free = np.where(pressed, 0.0, 1.0)
    normal = (jacobian.mT @ jacobian) * free[:, :, None] * free[:, None, :]
    floor = np.finfo(float).eps * damping.max(-1, keepdims=True) + np.finfo(float).tiny
    added = damping + floor + (1 - free)
    system = normal + added[:, :, None] * np.eye(theta.shape[1])
    step = np.linalg.solve(system, -(gradient * free)[..., None])[..., 0]
    return np.clip(step, -STEP_LONGEST, STEP_LONGEST)


def _easing(gain: Array, foreseen: Array) -> Array:
    """How to change the damping after a step that gained: less of it where the linear model foresaw the gain well.

    Nielsen's rule (report IMM-REP-1999-05): a fixed factor swings between overshooting and creeping.
    """
    quality = gain / np.maximum(foreseen, np.abs(gain) / 2 + np.finfo(float).tiny)
    return np.maximum(DAMPING_LOWEST_FACTOR, 1 - (2 * quality - 1) ** 3)
