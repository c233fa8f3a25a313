"""The exponential-logarithmic curve of emergence, in two parametrisations."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import wrightomega

from ontogeny.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BISECTIONS = 60


class OriginalParameters(NamedTuple):
    """The curve as published: f(t) = A exp(-lambda x) log(x) + K with x = gamma t + t0 (arXiv 2508.03616).

    `A` and `K` have the units of the values, `gamma` is per step, `lambda_` and `t0` are numbers.
    """

    A: float
    lambda_: float
    gamma: float
    t0: float
    K: float


@dataclass(frozen=True)
class EmergenceCurve:
    """f(t) = exp(-beta t) (A1 log(t + tau0) + A2) + K over training steps t >= 0.

    `A1`, `A2` and `K` have the units of the values, `beta` > 0 is per step, `tau0` > 0 counts steps. As t grows, f
    tends to K. Raises UsageError for a parameter that is not finite, or not positive where it must be. Reparametrised
    from arXiv 2508.03616.
    """

    A1: float
    A2: float
    K: float
    beta: float
    tau0: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in astuple(self)) or self.beta <= 0 or self.tau0 <= 0:
            raise UsageError(f"expected finite parameters with beta > 0 and tau0 > 0, got {self}")

    def __call__(self, steps: ArrayLike) -> NDArray[np.float64]:
        """The curve at `steps` (any shape), in the units of the values. Raises UsageError for a negative step."""
        t = np.asarray(steps, dtype=float)
        if (t < 0).any():
            raise UsageError(f"expected steps of 0 or more, got {t.min():g}")
        return np.asarray(np.exp(-self.beta * t) * (self.A1 * np.log(t + self.tau0) + self.A2) + self.K)

    @classmethod
    def from_original(cls, A: float, lambda_: float, gamma: float, t0: float, K: float) -> EmergenceCurve:
        """The curve with the published parameters.

        Raises UsageError unless lambda, gamma and t0 are positive and no parameter overflows.
        """
        if not (lambda_ > 0 and gamma > 0 and t0 > 0):
            raise UsageError(f"expected lambda, gamma and t0 > 0, got {lambda_:g}, {gamma:g} and {t0:g}")
        A1 = A * math.exp(-lambda_ * t0)
        return cls(A1=A1, A2=A1 * math.log(gamma), K=K, beta=lambda_ * gamma, tau0=t0 / gamma)

    def original(self) -> OriginalParameters | None:
        """The published parameters of the same curve, or None where it has none that are finite and positive.

        gamma = exp(A2 / A1), lambda = beta / gamma, t0 = gamma tau0, A = A1 exp(beta tau0). `A` has the sign of `A1`;
        at A1 = 0 nothing fixes gamma, and exp() overflows or vanishes where A2 / A1 or beta tau0 is beyond about 700.
        """
        if self.A1 == 0:
            return None
        with np.errstate(all="ignore"):
            gamma = np.exp(np.float64(self.A2) / self.A1)
            A = self.A1 * np.exp(np.float64(self.beta) * self.tau0)
            lambda_, t0 = self.beta / gamma, self.tau0 * gamma
        positive = np.array([gamma, lambda_, t0])
        if not (np.isfinite(A) and np.isfinite(positive).all() and (positive > 0).all()):
            return None
        return OriginalParameters(A=float(A), lambda_=float(lambda_), gamma=float(gamma), t0=float(t0), K=self.K)

    def extremum_step(self) -> float | None:
        """The one step, before 0 or after, at which the curve turns: a peak for A1 > 0, a trough for A1 < 0.

        None at A1 = 0, where it never turns. With x = t + tau0 and c = A2 / A1 the slope vanishes at log(x) + c =
        1 / (beta x), so x = 1 / (beta u) with u = W(exp(c) / beta), W being Lambert's function; the published
        (exp(W(1/lambda)) - t0) / gamma is the same. Wright's omega is W(exp(.)) without the overflow.
        """
        if self.A1 == 0:
            return None
        with np.errstate(all="ignore"):
            log_gamma = np.float64(self.A2) / self.A1
            u = wrightomega(log_gamma - math.log(self.beta))
            x = 1 / (self.beta * u) if log_gamma > 0 else np.exp(u - log_gamma)
        return float(x) - self.tau0

    def half_step(self, first_step: float, last_step: float) -> float | None:
        """The step at which the curve has gone half of its way from `first_step` to `last_step`.

        As it turns once at most it passes there once; None where both ends are equal.
        """
        low, high = first_step, last_step
        first, last = self([low, high])
        if first == last:
            return None
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            before = (float(self(middle)) - (first + last) / 2) * (first - last) > 0
            low, high = (middle, high) if before else (low, middle)
        return (low + high) / 2

    def peak_step(self, last_step: float) -> float | None:
        """The step at which the curve is highest, or None where it has no peak in (0, `last_step`]."""
        step = self.extremum_step()
        return step if step is not None and self.A1 > 0 and 0 < step <= last_step else None
