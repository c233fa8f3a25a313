"""Two clusters in closed form: how long they take from one inner product to another (arXiv 2312.10794, 2410.06833).

For two clusters of n / 2 particles each (or two particles) the inner product c obeys, with Q = K = V = I,

    USA: dc/dt = exp(beta (c - 1)) (1 - c^2)        SA: dc/dt = 2 (1 - c^2) / (1 + exp(beta (1 - c))).

With u = 1 - c, dt = exp(beta u) du / (u (2 - u)) for USA, which partial fractions turn into exponential integrals:

    T = [Ei(beta u) + exp(2 beta) E1(beta (2 - u))] / 2, its value at u0 less that at u1,

and SA takes (T + artanh c1 - artanh c0) / 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import exp1, expi

from ontogeny.dynamics.particles.model import SELF_ATTENTION, UNNORMALISED
from ontogeny.errors import UsageError

Array = NDArray[np.float64]
FAR = 50.0
LONGEST = 700.0  # beta (1 - c)


def two_body_time(beta: ArrayLike, start: ArrayLike, end: ArrayLike, kind: str = UNNORMALISED) -> Array:
    """The time from inner product `start` to `end`, exact, in the time of shifted USA, or of SA; they broadcast.

    Raises UsageError unless beta > 0, -1 < start <= end < 1, and beta (1 - start) <= 700.
    """
    beta, start, end = _checked(kind, beta, start, end)
    time = (_antiderivative(beta, 1 - start) - _antiderivative(beta, 1 - end)) / 2
    return time if kind == UNNORMALISED else (time + np.arctanh(end) - np.arctanh(start)) / 2


def exponential_time(beta: ArrayLike, start: ArrayLike, kind: str = UNNORMALISED) -> Array:
    """exp(beta (1 - c)), the growth alone of the lifetime of two clusters from inner product c = `start` on; SA half.

    It misses a factor 1 / beta, so that the slope of the logarithm of a lifetime lies below 1 - c by 1 / beta. Raises
    UsageError as `two_body_time`.
    """
    beta, c = _checked(kind, beta, start)
    return np.exp(beta * (1 - c)) / (1 if kind == UNNORMALISED else 2)


def leading_time(beta: ArrayLike, start: ArrayLike, kind: str = UNNORMALISED) -> Array:
    """What the lifetime tends to as beta grows: `exponential_time` over beta (1 - c^2)."""
    return exponential_time(beta, start, kind) / _width(beta, start)


def next_order_time(beta: ArrayLike, start: ArrayLike, kind: str = UNNORMALISED) -> Array:
    """The lifetime to one more order in 1 / beta: `leading_time` times 1 + 2 c / (beta (1 - c^2))."""
    return leading_time(beta, start, kind) * (1 + 2 * np.asarray(start) / _width(beta, start))


def _width(beta: ArrayLike, c: ArrayLike) -> Array:
    """beta (1 - c^2)."""
    return np.asarray(beta, dtype=np.float64) * (1 - np.square(c))


def _checked(kind: str, beta: ArrayLike, *products: ArrayLike) -> list[Array]:
    """`beta` and ascending inner `products`, broadcast to one shape."""
    if kind not in (SELF_ATTENTION, UNNORMALISED):
        raise UsageError(f"expected kind 'sa' or 'usa', got {kind!r}: other kinds have no closed form here")
    whole = [np.asarray(one, dtype=np.float64) for one in np.broadcast_arrays(beta, *products)]
    inside = (whole[1] > -1).all() and (whole[1] <= whole[-1]).all() and (whole[-1] < 1).all()
    if not (inside and (whole[0] > 0).all()):
        raise UsageError("expected beta > 0 and inner products -1 < start <= end < 1: at either end time is infinite")
    longest = float((whole[0] * (1 - whole[1])).max(initial=0.0))
    if longest > LONGEST:
        raise UsageError(f"expected beta (1 - start) <= {LONGEST:g}, got {longest:g}: float64 ends at about e^709")
    return whole


def _antiderivative(beta: Array, u: Array) -> Array:
    """Ei(beta u) + exp(2 beta) E1(beta (2 - u)), without the overflow of its factors."""
    return expi(beta * u) + np.exp(beta * u) * _scaled_exp1(beta * (2 - u))


def _scaled_exp1(x: Array) -> Array:
    """exp(x) E1(x); far out by its continued fraction, where the factors would underflow."""
    near = np.minimum(x, FAR)
    far = np.maximum(x, FAR)
    fraction = np.zeros_like(far)
    for k in range(20, 0, -1):
        fraction = k**2 / (far + 2 * k + 1 - fraction)
    return np.where(x < FAR, np.exp(near) * exp1(near), 1 / (far + 1 - fraction))
