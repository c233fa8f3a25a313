"""Quantities of a curve that are given an interval: its end, peak, half-rise and limit, and its published parameters.

Each is said in the scaled coordinates of `Projection`, in which a curve is k + c0 rise(s) + c1 hump(s), and as a
condition that is linear in (k, c0, c1) once the shape (beta, tau0) and the quantity's value z are given: that is what a
profile likelihood needs (`profile`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import wrightomega

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.projection import Projection

    Array = NDArray[np.float64]

BISECTIONS = 60


@dataclass(frozen=True)
class Curves:
    """Curves of one problem: `theta` (p, 2) and `linear` (p, 3) = (k, c0, c1)."""

    problem: Projection
    theta: Array
    linear: Array

    def at(self, elapsed: Array) -> Array:
        """Values at one elapsed time each, (p,)."""
        return (rows_at(self.problem, self.theta, elapsed) * self.linear).sum(-1)

    def turn(self) -> Array:
        """The elapsed time, maybe negative or beyond 1, at which each turns; NaN where it never does (see `curve`)."""
        beta, tau = _rates(self.problem, self.theta)
        with np.errstate(all="ignore"):
            offset = -np.log(tau) - self.linear[:, 1] / self.linear[:, 2]
            u = wrightomega(offset - np.log(beta))
            x = np.where(offset > 0, 1 / (beta * u), np.exp(u - offset))
        return x - tau

    def peak(self) -> Array:
        """The elapsed time of each one's peak, NaN where it has none after step 0 and up to the last step."""
        turn = self.turn()
        there = (self.linear[:, 2] > 0) & (turn > -self.problem.offset) & (turn <= 1)
        return np.where(there, turn, np.nan)

    def half_rise(self) -> Array:
        """The elapsed time at which each has gone half of its way from the first step to the last.

        A curve turns once at most, so that it passes the half exactly once; NaN where both ends are equal.
        """
        low, high = np.zeros(len(self.theta)), np.ones(len(self.theta))
        first, last = self.at(low), self.at(high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            before = (self.at(middle) - (first + last) / 2) * np.sign(first - last) > 0
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        return np.where(first == last, np.nan, (low + high) / 2)


class Quantity(ABC):
    """A number z of a curve, and the condition on its linear parameters that z takes a given value.

    `pivots` tells whether the condition leaves an elapsed time to be found on the way.
    """

    name: ClassVar[str]
    pivots: ClassVar[bool] = False

    @abstractmethod
    def value(self, curves: Curves) -> Array:
        """z of each curve, (p,); NaN where it has none."""

    @abstractmethod
    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        """Rows (p, 3) and targets (p,) such that row . (k, c0, c1) = target says that the quantity is z."""

    def open_at(self, problem: Projection, theta: Array) -> NDArray[np.bool_]:
        """Whether an end found at the shapes `theta` (p, 2) is due to the searched region, not to the data."""
        return np.zeros(len(theta), dtype=bool)

    def range(self, problem: Projection) -> tuple[float, float]:
        """The least and the largest z that there can be: any number, unless told otherwise."""
        return -np.inf, np.inf

    def in_units(self, problem: Projection, z: Array, scale: Array, shift: Array) -> Array:
        """z, maybe infinite, as a value of series that were shifted and scaled, unless told otherwise."""
        return z * scale + shift


class FinalValue(Quantity):
    """The curve at the last step."""

    name = "final_value"

    def value(self, curves: Curves) -> Array:
        return curves.at(np.ones(len(curves.theta)))

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        return rows_at(problem, theta, np.ones_like(z)), z


class PeakValue(Quantity):
    """The curve at its peak. As the slope vanishes there, the peak's place may be held while its height is varied."""

    name = "peak_value"
    pivots = True

    def value(self, curves: Curves) -> Array:
        peak = curves.peak()
        return np.where(np.isnan(peak), np.nan, curves.at(np.nan_to_num(peak)))

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        return rows_at(problem, theta, pivot), z


class Asymptote(Quantity):
    """What the curve tends to."""

    name = "K"

    def value(self, curves: Curves) -> Array:
        return curves.linear[:, 0] + curves.linear[:, 1]

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        return np.broadcast_to([1.0, 1.0, 0.0], (len(z), 3)), z

    def open_at(self, problem: Projection, theta: Array) -> NDArray[np.bool_]:
        return problem.at_lower_edge(theta)[:, 0]  # a slower decay would go farther still


class _Time(Quantity):
    """An elapsed time, as z = log(1 + step)."""

    def range(self, problem: Projection) -> tuple[float, float]:
        return 0.0, float(np.log1p(problem.first + problem.span))

    def in_units(self, problem: Projection, z: Array, scale: Array, shift: Array) -> Array:
        return np.maximum(np.expm1(z), 0.0)


class PeakStep(_Time):
    """The step at which the curve is highest: the one at which its slope vanishes."""

    name = "peak_step"

    def value(self, curves: Curves) -> Array:
        return _log_steps(curves.problem, curves.peak())

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        beta, tau = _rates(problem, theta)
        s = _elapsed(problem, z)
        row = np.stack([np.zeros_like(z), beta, 1 / (tau + s) - beta * np.log1p(s / tau)], axis=-1)
        return row / np.linalg.norm(row, axis=-1, keepdims=True), np.zeros_like(z)


class HalfRise(_Time):
    """The step at which half of the way from the first measured step's value to the last one's is gone."""

    name = "half_rise_step"

    def value(self, curves: Curves) -> Array:
        return _log_steps(curves.problem, curves.half_rise())

    def range(self, problem: Projection) -> tuple[float, float]:
        return float(np.log1p(problem.first)), super().range(problem)[1]  # before, the curve may pass the half again

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        ends = rows_at(problem, theta, np.zeros_like(z)) + rows_at(problem, theta, np.ones_like(z))
        row = rows_at(problem, theta, _elapsed(problem, z)) - ends / 2
        return row / np.linalg.norm(row, axis=-1, keepdims=True), np.zeros_like(z)


class _Published(Quantity):
    """A parameter that runs off as the shape does."""

    def open_at(self, problem: Projection, theta: Array) -> NDArray[np.bool_]:
        return np.asarray((problem.at_lower_edge(theta) | problem.at_upper_edge(theta)).any(axis=1))


class _LogRate(_Published):
    """A published parameter that is positive, as its logarithm; each says which gamma it amounts to."""

    def in_units(self, problem: Projection, z: Array, scale: Array, shift: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(z)

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        ratio = self.log_gamma(problem, theta, z) + _log_tau(problem, theta)
        row = np.stack([np.zeros_like(z), np.ones_like(z), ratio], axis=-1)
        return row / np.linalg.norm(row, axis=-1, keepdims=True), np.zeros_like(z)

    @abstractmethod
    def log_gamma(self, problem: Projection, theta: Array, z: Array) -> Array:
        """The logarithm of gamma, per step, of a curve of shape `theta` (p, 2) whose parameter's is z."""


class Gamma(_LogRate):
    """gamma = exp(A2 / A1), per step."""

    name = "gamma"

    def value(self, curves: Curves) -> Array:
        return _log_gamma(curves)

    def log_gamma(self, problem: Projection, theta: Array, z: Array) -> Array:
        return z


class Lambda(_LogRate):
    """lambda = beta / gamma."""

    name = "lambda_"

    def value(self, curves: Curves) -> Array:
        return curves.theta[:, 0] - np.log(curves.problem.span) - _log_gamma(curves)

    def log_gamma(self, problem: Projection, theta: Array, z: Array) -> Array:
        return theta[:, 0] - np.log(problem.span) - z


class Offset(_LogRate):
    """t0 = gamma tau0."""

    name = "t0"

    def value(self, curves: Curves) -> Array:
        return _log_gamma(curves) + curves.theta[:, 1] + np.log(curves.problem.span)

    def log_gamma(self, problem: Projection, theta: Array, z: Array) -> Array:
        return z - theta[:, 1] - np.log(problem.span)


class Amplitude(_Published):
    """A = A1 exp(beta tau0)."""

    name = "A"

    def value(self, curves: Curves) -> Array:
        beta, tau = _rates(curves.problem, curves.theta)
        with np.errstate(over="ignore"):
            return curves.linear[:, 2] * np.exp(beta * tau)

    def condition(self, problem: Projection, theta: Array, z: Array, pivot: Array) -> tuple[Array, Array]:
        beta, tau = _rates(problem, theta)
        return np.broadcast_to([0.0, 0.0, 1.0], (len(z), 3)), z * np.exp(-beta * tau)

    def in_units(self, problem: Projection, z: Array, scale: Array, shift: Array) -> Array:
        return z * scale


DETERMINED: tuple[Quantity, ...] = (FinalValue(), PeakValue(), PeakStep(), HalfRise(), Asymptote())
PUBLISHED: tuple[Quantity, ...] = (Amplitude(), Lambda(), Gamma(), Offset())


def rows_at(problem: Projection, theta: Array, elapsed: Array) -> Array:
    """The columns of the curves of shapes `theta` (p, 2) at one elapsed time each (p,): (p, 3), without weights."""
    beta, tau = _rates(problem, theta)
    hump = np.exp(-beta * elapsed) * np.log1p(elapsed / tau)
    return np.stack([np.ones_like(hump), -np.expm1(-beta * elapsed), hump], axis=-1)


def _log_steps(problem: Projection, elapsed: Array) -> Array:
    return np.log1p(problem.first + elapsed * problem.span)


def _elapsed(problem: Projection, log_steps: Array) -> Array:
    return (np.expm1(log_steps) - problem.first) / problem.span


def _rates(problem: Projection, theta: Array) -> tuple[Array, Array]:
    return np.exp(theta[:, 0]), np.exp(theta[:, 1]) + problem.offset


def _log_tau(problem: Projection, theta: Array) -> Array:
    """The logarithm of the first step plus tau0, in steps."""
    return np.log(_rates(problem, theta)[1] * problem.span)


def _log_gamma(curves: Curves) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -_log_tau(curves.problem, curves.theta) - curves.linear[:, 1] / curves.linear[:, 2]
