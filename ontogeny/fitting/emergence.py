"""Fit the emergence curve to series of values over training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ontogeny.errors import UsageError
from ontogeny.fitting.curve import EmergenceCurve, OriginalParameters
from ontogeny.fitting.determined import DETERMINED, PUBLISHED
from ontogeny.fitting.profile import ROUNDING, Series, intervals
from ontogeny.fitting.projection import PARAMETERS, Projection
from ontogeny.fitting.scaling import Scaled, robust_weights
from ontogeny.fitting.search import best_shapes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

__all__ = [
    "EmergenceCurve",
    "EmergenceFit",
    "Interval",
    "OriginalParameters",
    "Regime",
    "Verdict",
    "fit_curve",
    "fit_curves",
]

Loss = Literal["squares", "huber"]

LARGEST = 1e100  # beyond it a value is an overflow, not a measurement
CONSTANT = 1e-12  # a spread below this part of the largest value is rounding
LOG_ERROR_HIGHEST = 1.0  # standard error of ln beta or ln tau0: known to within a factor e
REPRODUCED = 1e-4  # of R^2: how far the parameters, in double precision, may be from the fit that they came from
NOTABLE = 0.1  # part of the curve's range that makes a rise or a fall


class Verdict(StrEnum):
    """What came of a fit (docs/fitting.md). The last three have no curve; only `OK` has parameters to be read.

    `NOT_IDENTIFIABLE` has a curve unless its parameters ran so far off that double precision cannot tell it.
    """

    OK = "ok"
    NOT_IDENTIFIABLE = "not identifiable"
    DID_NOT_CONVERGE = "did not converge"
    TOO_FEW_POINTS = "too few points"
    CONSTANT = "constant"
    NOT_FINITE = "not finite"


class Regime(StrEnum):
    """The shape of a fitted curve between its first and last measured step; `NONE` where there is no curve."""

    EARLY_PEAK = "early peak"
    TROUGH = "trough"
    LOG_INCREASE = "log increase"
    MONOTONE_DECAY = "monotone decay"
    FLAT = "flat"
    NONE = "none"


class Interval(NamedTuple):
    """A confidence interval; an end that the data leave open is infinite, or 0 for a step."""

    low: float
    high: float


@dataclass(frozen=True)
class EmergenceFit:
    """A fitted curve and how far to trust it; `curve`, `r2` and `residual_std` are None where the verdict denies them.

    `points` values were used, between `first_step` and `last_step`. `r2` is one minus the (weighted) residual over the
    total sum of squares; `residual_std`, in the units of the values, is that of a point of mean weight, for
    `points` - 5 degrees of freedom.

    `intervals`, where they were asked for, are those by profile likelihood of `final_value`, `half_rise_step`, `K` and,
    where there is a peak, `peak_value` and `peak_step`; and of the published parameters `A`, `lambda_`, `gamma` and
    `t0` where these are finite at both ends.
    """

    verdict: Verdict
    points: int
    first_step: float
    last_step: float
    curve: EmergenceCurve | None = None
    r2: float | None = None
    residual_std: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def peak_step(self) -> float | None:
        """The step at which the curve is highest, None without a curve or without a peak in (0, `last_step`]."""
        return None if self.curve is None else self.curve.peak_step(self.last_step)

    @property
    def peak_value(self) -> float | None:
        """The curve's value at its peak, None without one."""
        return None if self.curve is None or self.peak_step is None else float(self.curve(self.peak_step))

    @property
    def final_value(self) -> float | None:
        """The curve's value at `last_step`, None without a curve."""
        return None if self.curve is None else float(self.curve(self.last_step))

    @property
    def half_rise_step(self) -> float | None:
        """The step at which the curve has gone half of its way from `first_step` to `last_step`, None without one."""
        return None if self.curve is None else self.curve.half_step(self.first_step, self.last_step)

    @property
    def left_open(self) -> tuple[str, ...]:
        """The quantities of `intervals` of which the data leave an end open."""
        return tuple(
            name
            for name, one in self.intervals.items()
            if not math.isfinite(one.low) or not math.isfinite(one.high) or (name.endswith("_step") and one.low == 0)
        )

    @property
    def regime(self) -> Regime:
        """The curve's shape, from its values at the first and last step and where it turns between them.

        *Flat*: the range is under a tenth of the largest magnitude, or under twice `residual_std`. *Early peak*,
        *trough*: it rises and then falls, or falls and then rises, each by over a tenth of its range. Otherwise the
        ends decide: *log increase* or *monotone decay*. Regimes named as in arXiv 2508.03616; the limits are ours.
        """
        if self.curve is None:
            return Regime.FLAT if self.verdict is Verdict.CONSTANT else Regime.NONE
        turn = self.curve.extremum_step()
        if turn is None or not self.first_step < turn < self.last_step:
            turn = self.first_step
        start, middle, end = self.curve([self.first_step, turn, self.last_step])
        extent = max(start, middle, end) - min(start, middle, end)
        largest = max(abs(start), abs(middle), abs(end))
        if extent < max(NOTABLE * largest, 2 * (self.residual_std or 0.0)):
            return Regime.FLAT
        if middle - max(start, end) > NOTABLE * extent:
            return Regime.EARLY_PEAK
        if min(start, end) - middle > NOTABLE * extent:
            return Regime.TROUGH
        return Regime.LOG_INCREASE if end > start else Regime.MONOTONE_DECAY


def fit_curve(
    steps: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    level: float | None = None,
    loss: Loss = "squares",
) -> EmergenceFit:
    """Fit the emergence curve to `values` (n,) measured at `steps` (n,) >= 0, in any order, repeats allowed.

    `weights` (n,) multiply the squared residuals (inverse variances, in any unit); a weight of 0 leaves a point out.
    `level`, such as 0.95, asks for confidence intervals. With `loss="huber"` residuals beyond 1.345 robust standard
    deviations count in proportion to their size, not to its square.

    What was measured never raises: the verdict names what is wrong with it. Raises UsageError for shapes that do not
    match, and for steps or weights that are negative or not finite. Curve: arXiv 2508.03616.
    """
    y = np.asarray(values, dtype=float)
    if y.ndim != 1:
        raise UsageError(f"expected one value for each step, shape (n,), got {y.shape}; `fit_curves` takes (m, n)")
    return fit_curves(steps, y[None], weights, level=level, loss=loss)[0]


def fit_curves(
    steps: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    level: float | None = None,
    loss: Loss = "squares",
) -> list[EmergenceFit]:
    """Fit `values` (m, n): m series measured at the same `steps` (n,), searched together; otherwise as `fit_curve`.

    `weights` are (n,), or (m, n) with the same points left out of every series.
    """
    t, y, w = _checked(steps, values, weights)
    _check_options(level, loss)
    used = (w > 0).all(axis=0)
    t, y, w = t[used], y[:, used], w[:, used]
    verdicts = [_obstacle(t, row) for row in y]
    sound = np.array([verdict is None for verdict in verdicts], dtype=bool)
    fitted = iter(_fit_sound(t, y[sound], w[sound], level, loss) if sound.any() else ())
    first, last = (float(t.min()), float(t.max())) if t.size else (0.0, 0.0)
    return [next(fitted) if verdict is None else EmergenceFit(verdict, t.size, first, last) for verdict in verdicts]


def _checked(steps: ArrayLike, values: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    t, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    w = np.ones_like(t) if weights is None else np.asarray(weights, dtype=float)
    if t.ndim != 1 or y.ndim != 2 or y.shape[1] != t.size or w.shape not in (t.shape, y.shape):
        raise UsageError(
            "expected as many values, and weights, as steps, "
            f"got steps of shape {t.shape}, values of shape {y.shape} and weights of shape {w.shape}"
        )
    for name, array in (("steps", t), ("weights", w)):
        if not np.isfinite(array).all() or (array < 0).any():
            raise UsageError(f"expected {name} that are finite and 0 or more: leave out the points that have none")
    w = np.broadcast_to(w, y.shape)
    if ((w > 0) != (w > 0).all(axis=0)).any():
        raise UsageError("expected weights that are 0 for a point in every series or in none: fit the series apart")
    return t, y, w


def _check_options(level: float | None, loss: str) -> None:
    if level is not None and not 0 < level < 1:
        raise UsageError(f"expected a confidence level between 0 and 1, such as 0.95, got {level!r}")
    if loss not in ("squares", "huber"):
        raise UsageError(f"expected the loss squares or huber, got {loss!r}")


def _obstacle(steps: Array, values: Array) -> Verdict | None:
    """Why there is nothing to fit, or None."""
    if np.unique(steps).size <= PARAMETERS:
        return Verdict.TOO_FEW_POINTS
    magnitude = np.abs(values).max()
    if not magnitude <= LARGEST:
        return Verdict.NOT_FINITE
    return Verdict.CONSTANT if np.ptp(values) <= CONSTANT * magnitude else None


def _fit_sound(steps: Array, values: Array, weights: Array, level: float | None, loss: Loss) -> list[EmergenceFit]:
    """Fit series (m, n) that have no obstacle: shift and scale them, find their shapes, go back to their units."""
    weights = weights / weights.mean(axis=1, keepdims=True)  # the unit of one series must not weigh on another
    problem = Projection.of(steps, weights.mean(axis=0))
    if loss == "huber":
        weights = robust_weights(problem, values, weights)
    scaled = Scaled.of(problem, values, weights)
    best = best_shapes(problem, scaled.targets, scaled.emphasis)
    series = Series(problem, scaled.targets, scaled.emphasis, best.theta)
    linear = series.curves().linear
    fits = []
    for i, theta in enumerate(best.theta):
        curve = problem.curve(theta, linear[i], float(scaled.scale[i]), float(scaled.shift[i]))
        residual = (values[i] - curve(steps)) / scaled.scale[i] * scaled.roots[i]
        squares = float(residual @ residual)
        variance = squares / (steps.size - PARAMETERS)
        fit = EmergenceFit(Verdict.NOT_IDENTIFIABLE, steps.size, float(steps.min()), float(steps.max()))
        if abs(squares - best.cost[i]) <= REPRODUCED:
            verdict = _judge(problem, theta, best.jacobian[i], variance, bool(best.converged[i]))
            residual_std = float(scaled.scale[i]) * math.sqrt(variance)
            fit = replace(fit, verdict=verdict, curve=curve, r2=1 - squares, residual_std=residual_std)
        fits.append(fit)
    return fits if level is None else _with_intervals(fits, series, scaled, level)


def _with_intervals(fits: list[EmergenceFit], series: Series, scaled: Scaled, level: float) -> list[EmergenceFit]:
    """The fits that have a curve with their intervals: of the published parameters, where these can be read at all."""
    found: list[dict[str, Interval]] = [{} for _ in fits]
    for quantities, readable in (
        (DETERMINED, [fit.curve is not None for fit in fits]),
        (PUBLISHED, [fit.verdict is Verdict.OK for fit in fits]),
    ):
        which = np.flatnonzero(readable)
        for quantity in quantities if which.size else ():
            _, *ends = intervals(series.of(which), quantity, level)
            low, high = (quantity.in_units(series.problem, z, scaled.scale[which], scaled.shift[which]) for z in ends)
            stated = np.isfinite(low) & np.isfinite(high) if quantities is PUBLISHED else ~np.isnan(low)
            for place in np.flatnonzero(stated):
                found[which[place]][quantity.name] = Interval(float(low[place]), float(high[place]))
    return [replace(fit, intervals=own) for fit, own in zip(fits, found, strict=True)]


def _judge(problem: Projection, theta: Array, jacobian: Array, variance: float, converged: bool) -> Verdict:
    """Whether the data fix ln beta and ln tau0: inside the region, with linearised standard errors below the limit."""
    if not converged:
        return Verdict.DID_NOT_CONVERGE
    if (problem.at_lower_edge(theta) | problem.at_upper_edge(theta)).any():
        return Verdict.NOT_IDENTIFIABLE
    _, singular, axes = np.linalg.svd(jacobian, full_matrices=False)
    error = math.sqrt(max(variance, ROUNDING**2))
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN, of a shape that moves nothing, is not below the limit
        errors = np.linalg.norm(error / singular[:, None] * axes, axis=0)
    return Verdict.OK if (errors < LOG_ERROR_HIGHEST).all() else Verdict.NOT_IDENTIFIABLE
