"""Correlation of two short series at several lags, with an interval and a p-value that allow for autocorrelation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SEED = 20251006
LEAST_PAIRS = 8
BLOCK_FACTOR = 1.25  # block length over the root of the number of values: the false-positive rate was measured with it
MOST_WITHOUT = 0.05  # share of resamples without a correlation above which there is no interval
_ALIKE = 1e-9  # relative spread below which a series is constant: rounding
_NEAR_ONE = 1 - 1e-12


@dataclass(frozen=True)
class Correlations:
    """Of each series with the driver at each lag, (series, lag); `pairs` (lag,).

    NaN where there are fewer than LEAST_PAIRS pairs or a side of the pairs is constant; the ends also where the
    resamples leave them open.
    """

    correlation: Array
    low: Array
    high: Array
    p_value: Array
    pairs: NDArray[np.int64]


def block_length(count: int) -> int:
    """Length of the blocks that are moved as one, for a series of `count` values."""
    return math.ceil(BLOCK_FACTOR * math.sqrt(count))


def correlate(driver: Array, series: Array, lags: Sequence[int], level: float, replicates: int) -> Correlations:
    """Pearson correlation of driver[t] with series[t + lag], the driver (n,) and the series (m, n) finite.

    The p-value is that of the largest magnitude over the lags, hence holds for all lags of a series together: the
    driver is turned round by a random number of places, cut into blocks and these are put in a random order. The
    interval is Fisher's z with the standard error over resamples of moving blocks of pairs, and Student's quantile at
    one degree of freedom fewer than there are blocks.
    """
    pairs = np.array([max(driver.size - abs(lag), 0) for lag in lags], dtype=np.int64)
    shape = (series.shape[0], len(lags))
    correlation, low, high, p_value = (np.full(shape, np.nan) for _ in range(4))
    used = [i for i, count in enumerate(pairs) if count >= LEAST_PAIRS]
    if used:
        draw = np.random.default_rng(SEED)
        chosen = [lags[i] for i in used]
        correlation[:, used] = _at_lags(driver[None], series, chosen)[0]
        surrogates = _at_lags(driver[_shuffles(driver.size, replicates, draw)], series, chosen)
        p_value[:, used] = _family_wise(correlation[:, used], surrogates)
        for i in used:
            before, after = _window(driver, lags[i], True), _window(series, lags[i], False)
            low[:, i], high[:, i] = _interval(before, after, correlation[:, i], level, replicates, draw)
    return Correlations(correlation, low, high, p_value, pairs)


def constant(values: Array) -> NDArray[np.bool_]:
    """Whether series (..., n) do not change but by rounding."""
    spread = values.max(axis=-1) - values.min(axis=-1)
    return np.asarray(spread <= _ALIKE * np.abs(values).max(axis=-1))


def _window(values: Array, lag: int, leads: bool) -> Array:
    """The part of series (..., n) that has a partner `lag` places on (where it `leads`) or back."""
    size = values.shape[-1]
    start = max(0, -lag if leads else lag)
    return values[..., start : start + size - abs(lag)]


def _at_lags(drivers: Array, series: Array, lags: Sequence[int]) -> Array:
    """Correlation of drivers (b, n) with series (m, n) at each lag, (b, m, lag); NaN where a side is constant."""
    found = [
        _standard(_window(drivers, lag, True)) @ _standard(_window(series, lag, False)).T / (series.shape[1] - abs(lag))
        for lag in lags
    ]
    return np.clip(np.stack(found, axis=-1), -1, 1)


def _standard(values: Array) -> Array:
    """Series (..., n) of mean 0 and variance 1; NaN where they are constant."""
    deviation = values - values.mean(axis=-1, keepdims=True)
    scale = np.sqrt((deviation**2).mean(axis=-1, keepdims=True))
    standard: Array = deviation / np.where(constant(values)[..., None], np.nan, scale)
    return standard


def _shuffles(count: int, replicates: int, draw: np.random.Generator) -> NDArray[np.intp]:
    """Orders (replicates, count) of a series: turned round, cut into blocks, the blocks in a random order."""
    length = block_length(count)
    blocks = -(-count // length)
    order = np.argsort(draw.uniform(size=(replicates, blocks)), axis=1)
    places = (order[..., None] * length + np.arange(length)).reshape(replicates, -1)
    kept = places[places < count].reshape(replicates, count)
    return (kept + draw.integers(count, size=(replicates, 1))) % count


def _family_wise(observed: Array, surrogates: Array) -> Array:
    """p-value (m, lag) of `observed`: share of surrogates (b, m, lag) whose largest magnitude over lags reaches it."""
    largest = np.nan_to_num(np.abs(surrogates)).max(axis=-1)
    reached = (largest[..., None] >= np.abs(observed) - _ALIKE).sum(axis=0)
    return np.where(np.isnan(observed), np.nan, (1 + reached) / (1 + surrogates.shape[0]))


def _fisher(correlation: Array) -> Array:
    z: Array = np.arctanh(np.clip(correlation, -_NEAR_ONE, _NEAR_ONE))
    return z


def _interval(
    driver: Array, series: Array, correlation: Array, level: float, replicates: int, draw: np.random.Generator
) -> tuple[Array, Array]:
    """Ends (m,) of the interval of the correlation of driver (n,) with series (m, n)."""
    count = driver.size
    length = block_length(count)
    blocks = -(-count // length)
    starts = draw.integers(count - length + 1, size=(replicates, blocks))
    drawn = (starts[..., None] + np.arange(length)).reshape(replicates, -1)[:, :count]
    weights = np.zeros((replicates, count))
    np.add.at(weights, (np.arange(replicates)[:, None], drawn), 1 / count)
    x, y = _standard(driver), _standard(series)
    mean_x, mean_y = (weights @ x)[:, None], weights @ y.T
    variance_x, variance_y = (weights @ x**2)[:, None] - mean_x**2, weights @ (y**2).T - mean_y**2
    flat = (variance_x <= _ALIKE) | (variance_y <= _ALIKE)
    scale = np.where(flat, np.nan, np.sqrt(np.abs(variance_x * variance_y)))
    resampled = _fisher((weights @ (x * y).T - mean_x * mean_y) / scale)
    has = np.isfinite(resampled)
    without = 1 - has.mean(axis=0)
    spread = np.sqrt(
        np.where(has, (resampled - _mean(resampled, has)) ** 2, 0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    )
    half = float(student.ppf((1 + level) / 2, count / length - 1)) * spread
    half = np.where((without > MOST_WITHOUT) | np.isnan(correlation), np.nan, half)
    z = _fisher(correlation)
    return np.tanh(z - half), np.tanh(z + half)


def _mean(values: Array, has: NDArray[np.bool_]) -> Array:
    mean: Array = np.where(has, values, 0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    return mean
