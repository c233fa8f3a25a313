"""Confidence intervals by profile likelihood, of a quantity of many curves at once.

For a value z of the quantity a curve is fitted again under the condition that the quantity is z. The interval holds
the z at which the sum of squares stays below its minimum times 1 + F / (n - 5), F being the quantile of Fisher's
distribution with 1 and n - 5 degrees of freedom: it follows the curved valleys that a linearised error cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import f as fisher

from ontogeny.fitting.descent import descend
from ontogeny.fitting.determined import Curves
from ontogeny.fitting.projection import PARAMETERS, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.determined import Quantity
    from ontogeny.fitting.projection import Projection

    Array = NDArray[np.float64]

STIFFNESS = 1e4  # weight of the condition, against targets of norm 1
DIFFERENCE = 1e-6  # of the numerical derivative of a condition by the shape
ROUNDING = 1e-10  # part of the series' norm that counts as error even in an exact fit
ROUNDS = 30  # refits that approach one end of an interval
NEGLIGIBLE = 1e-5  # gain of a refit, as part of its sum of squares, at which it has gone far enough
CLOSE = 0.03  # part of the rise in squares within which an end is found
NARROW = 1e-3  # part of its distance from the estimate, or of 1, within which an end is known well enough
FIRST, FACTOR = 0.1, 4.0  # distance first tried from the estimate, and the most by which it changes in a round
WIDEST = 1e3  # distance at which an end counts as open
BLOCK = 256  # series searched at once, to bound memory
COARSER = 2  # the grid of the global search, thinned
PIVOTS = 3  # refits in which the place of a peak settles


@dataclass(frozen=True)
class Series:
    """Scaled series of one problem: `targets` (m, n), weighted and of norm 1, their `emphasis` and best `theta`."""

    problem: Projection
    targets: Array
    emphasis: Array
    theta: Array

    def curves(self) -> Curves:
        """The best curves."""
        return Curves(self.problem, self.theta, self.problem.linear(self.theta, self.targets, self.emphasis))

    def of(self, which: NDArray[np.intp]) -> Series:
        """Some of the series."""
        return Series(self.problem, self.targets[which], self.emphasis[which], self.theta[which])


def intervals(series: Series, quantity: Quantity, level: float) -> tuple[Array, Array, Array]:
    """Estimates of `quantity` and both ends of their intervals, each (m,), in the quantity's own scale.

    NaN where a curve has no such quantity. An end that the data leave open is infinite.
    """
    best = series.curves()
    estimate, peak = quantity.value(best), best.peak()
    there = np.flatnonzero(np.isfinite(estimate))
    low, high = np.full(len(estimate), np.nan), np.full(len(estimate), np.nan)
    for block in np.array_split(there, -(-there.size // BLOCK)) if there.size else ():
        both, direction = np.tile(block, 2), np.repeat([-1.0, 1.0], block.size)
        search = _Search(series.of(both), quantity, estimate[both], direction, level)
        search.pivot = np.where(np.isfinite(peak[both]), peak[both], 0.0)
        low[block], high[block] = np.split(search.run(), 2)
    return estimate, low, high


class _Search:
    """The search for one end each of p intervals, below the estimates or above as the signs in `direction` (p,) say."""

    def __init__(self, series: Series, quantity: Quantity, estimate: Array, direction: Array, level: float) -> None:
        self.series, self.quantity, self.grid = series, quantity, _Grid(series)
        self.estimate, self.direction = estimate, direction
        residual, _ = series.problem.linearise(series.theta, series.targets, series.emphasis)
        self.squares = (residual**2).sum(-1)
        freedom = series.targets.shape[1] - PARAMETERS
        self.allowed = np.maximum(self.squares, ROUNDING**2) * fisher.ppf(level, 1, freedom) / freedom
        self.theta = series.theta.copy()
        self.pivot = np.zeros(len(estimate))

    def run(self) -> Array:
        """The ends. One that the rounds leave uncertain is put where a value was found to be out, not in."""
        count, problem = len(self.estimate), self.series.problem
        least, largest = self.quantity.range(problem)
        reach = np.minimum(np.abs(np.where(self.direction > 0, largest, least) - self.estimate), WIDEST)
        near, far = np.zeros(count), np.full(count, np.inf)
        distance, live = np.minimum(FIRST, reach), np.arange(count)
        for _ in range(ROUNDS):
            tried = distance[live]
            rise = self._refit(live, self.estimate[live] + self.direction[live] * tried) - self.squares[live]
            inside = rise <= self.allowed[live]
            near[live] = np.where(inside, np.maximum(near[live], tried), near[live])
            far[live] = np.where(inside, far[live], np.minimum(far[live], tried))
            distance[live] = np.minimum(_next(tried, rise / self.allowed[live], near[live], far[live]), reach[live])
            found = np.abs(rise / self.allowed[live] - 1) <= CLOSE
            far[live[found]] = tried[found]
            settled = far[live] - near[live] <= NARROW * np.minimum(far[live], 1)
            live = live[~(found | settled | (near[live] >= reach[live]))]
            if not live.size:
                break
        return self.estimate + self.direction * np.where(self.quantity.open_at(problem, self.theta), np.inf, far)

    def _refit(self, live: NDArray[np.intp], z: Array) -> Array:
        """The least sums of squares when the quantities of the series `live` are z; moves the shapes and the pivots."""
        series, problem, count = self.series.of(live), self.series.problem, len(live)
        for _ in range(PIVOTS if self.quantity.pivots else 1):
            condition = _Condition(series, self.quantity, z, self.pivot[live])
            starts = np.concatenate([self.theta[live], self.grid.best(live, condition)])
            found = descend(condition.linearise, starts, problem.lower, problem.upper, NEGLIGIBLE)
            better = found.cost[count:] < found.cost[:count]
            theta = np.where(better[:, None], found.theta[count:], found.theta[:count])
            curves = condition.curves(theta)
            peak = curves.peak()
            self.theta[live], self.pivot[live] = theta, np.where(np.isfinite(peak), peak, self.pivot[live])
        fitted = (problem.design(theta) @ curves.linear[..., None])[..., 0] * series.emphasis
        return ((series.targets - fitted) ** 2).sum(-1)


@dataclass(frozen=True)
class _Condition:
    """Series whose quantity is to be z: their problem with a heavy row in front."""

    series: Series
    quantity: Quantity
    z: Array
    pivot: Array

    def linearise(self, theta: Array, which: NDArray[np.intp]) -> tuple[Array, Array]:
        """Residuals and derivatives, as `descend` wants them; the problems go round the series."""
        one = which % len(self.z)
        design, targets = self._extended(theta, one)
        slopes = []
        for axis in range(2):
            step = np.zeros(2)
            step[axis] = DIFFERENCE
            ahead, behind = (self._row(theta + sign * step, one)[0] for sign in (1, -1))
            slopes.append((ahead - behind) / (2 * DIFFERENCE))
        gradient = self.series.problem.design_gradient(theta) * self.series.emphasis[one][:, None, :, None]
        heavy = STIFFNESS * np.stack(slopes, axis=1)[:, :, None]
        return project(design, np.concatenate([heavy, gradient], axis=2), targets)

    def curves(self, theta: Array) -> Curves:
        """The best curves of shapes `theta` (p, 2), one a series, that meet the condition."""
        design, targets = self._extended(theta, np.arange(len(theta)))
        basis, triangle = np.linalg.qr(design)
        linear = np.linalg.solve(triangle, basis.mT @ targets[..., None])[..., 0]
        return Curves(self.series.problem, theta, linear)

    def _extended(self, theta: Array, one: NDArray[np.intp]) -> tuple[Array, Array]:
        row, target = self._row(theta, one)
        design = self.series.problem.design(theta) * self.series.emphasis[one][..., None]
        targets = np.concatenate([STIFFNESS * target[:, None], self.series.targets[one]], axis=1)
        return np.concatenate([STIFFNESS * row[:, None], design], axis=1), targets

    def _row(self, theta: Array, one: NDArray[np.intp]) -> tuple[Array, Array]:
        return self.quantity.condition(self.series.problem, theta, self.z[one], self.pivot[one])


class _Grid:
    """Shapes all over the region, to begin from the one at which the conditioned fit is best."""

    def __init__(self, series: Series) -> None:
        problem = series.problem
        self.theta = problem.grid()[::COARSER, ::COARSER].reshape(-1, 2)
        basis, triangle = np.linalg.qr(problem.design(self.theta))
        self.inverse = np.linalg.inv(triangle)
        alike = series.targets / series.emphasis
        self.explained = np.tensordot(alike, basis, axes=(1, 1))
        self.squares = (alike**2).sum(-1)[:, None] - (self.explained**2).sum(-1)

    def best(self, live: NDArray[np.intp], condition: _Condition) -> Array:
        """For each series the shape with the least sum of squares under the condition, (q, 2)."""
        count, shapes = len(live), len(self.theta)
        theta = np.tile(self.theta, (count, 1))
        z, pivot = (np.repeat(one, shapes) for one in (condition.z, condition.pivot))
        row, target = condition.quantity.condition(condition.series.problem, theta, z, pivot)
        across = (row.reshape(count, shapes, 1, 3) @ self.inverse)[:, :, 0]
        missed = target.reshape(count, shapes) - (across * self.explained[live]).sum(-1)
        rise = missed**2 / np.maximum((across**2).sum(-1), np.finfo(float).tiny)
        return self.theta[(self.squares[live] + rise).argmin(axis=1)]


def _next(tried: Array, rise: Array, near: Array, far: Array) -> Array:
    """The next distance: where a parabola through the last would reach 1, kept between what is in and what is out."""
    with np.errstate(divide="ignore"):
        factor = 1 / np.sqrt(np.maximum(rise, 0))
    proposal = tried * np.clip(factor, 1 / FACTOR, FACTOR)
    between = np.sqrt(np.maximum(near, far / FACTOR) * far)
    return np.where((proposal <= near) | (proposal >= far), between, proposal)
