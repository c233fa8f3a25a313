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


def block_lengths(driver: Array, series: Array) -> NDArray[np.int64]:
    """Lengths (m,) of the blocks of driver (n,) and series (m, n) that are moved as one.

    sqrt(n) times 1 + r, r the product of both autocorrelations at lag 1 where that is positive: how far correlations
    by chance spread grows with it. False-positive rates were measured with this rule.
    """
    of_driver, of_series = _autocorrelation(driver[None]), _autocorrelation(series)
    together = np.clip(np.nan_to_num(of_driver * of_series), 0, 1)
    return np.ceil(math.sqrt(driver.size) * (1 + together)).astype(np.int64)


def _autocorrelation(series: Array) -> Array:
    standard = _standard(series)
    found: Array = (standard[:, 1:] * standard[:, :-1]).sum(axis=1) / series.shape[1]
    return found


def correlate(driver: Array, series: Array, lags: Sequence[int], level: float, replicates: int) -> Correlations:
    """Pearson correlation of driver[t] with series[t + lag], the driver (n,) and the series (m, n) finite.

    Each lag's p-value is of its own magnitude against the distribution of the largest over the lags, and so holds for
    all lags of a series together. For that distribution the driver is turned round by a random number of places and cut
    into blocks, which are put in a random order, each forwards or backwards. The interval is Fisher's z with the
    standard error over resamples of moving blocks of pairs, and Student's quantile at one degree of freedom fewer than
    there are blocks.

    Measured on unrelated autoregressive series of 12 to 150 values: p <= 0.05 in 3 to 7 % of them where the
    autocorrelation is 0 or 0.5, in 5 to 10 % where it is 0.8; 95 % intervals hold the truth in 91 to 99 %.
    """
    pairs = np.array([max(driver.size - abs(lag), 0) for lag in lags], dtype=np.int64)
    shape = (series.shape[0], len(lags))
    correlation, low, high, p_value = (np.full(shape, np.nan) for _ in range(4))
    used = [i for i, count in enumerate(pairs) if count >= LEAST_PAIRS]
    if used:
        chosen = [lags[i] for i in used]
        correlation[:, used] = _at_lags(driver[None], series, chosen)[0]
        lengths = block_lengths(driver, series)
        for length in np.unique(lengths):
            draw = np.random.default_rng(SEED)
            rows = np.flatnonzero(lengths == length)
            some, cells = series[rows], np.ix_(rows, np.array(used))
            orders = _shuffles(driver.size, length, replicates, draw)
            p_value[cells] = _family_wise(correlation[cells], _at_lags(driver[orders], some, chosen))
            for i in used:
                pair = window(driver, -lags[i]), window(some, lags[i])
                low[rows, i], high[rows, i] = _interval(*pair, correlation[rows, i], length, level, replicates, draw)
    return Correlations(correlation, low, high, p_value, pairs)


def constant(values: Array) -> NDArray[np.bool_]:
    """Whether series (..., n) do not change but by rounding."""
    spread = values.max(axis=-1) - values.min(axis=-1)
    return np.asarray(spread <= _ALIKE * np.abs(values).max(axis=-1))


def window(values: Array, offset: int) -> Array:
    """The part of series (..., n) that has a partner `offset` places back, which is `window(partners, -offset)`."""
    size = values.shape[-1] - abs(offset)
    start = max(0, offset)
    return values[..., start : start + max(0, size)]


def _at_lags(drivers: Array, series: Array, lags: Sequence[int]) -> Array:
    """Correlation of drivers (b, n) with series (m, n) at each lag, (b, m, lag); NaN where a side is constant."""
    found = [
        _standard(window(drivers, -lag)) @ _standard(window(series, lag)).T / (series.shape[1] - abs(lag))
        for lag in lags
    ]
    return np.clip(np.stack(found, axis=-1), -1, 1)


def _standard(values: Array) -> Array:
    """Series (..., n) of mean 0 and variance 1; NaN where they are constant."""
    deviation = values - values.mean(axis=-1, keepdims=True)
    scale = np.sqrt((deviation**2).mean(axis=-1, keepdims=True))
    standard: Array = deviation / np.where(constant(values)[..., None], np.nan, scale)
    return standard


def _shuffles(count: int, length: int, replicates: int, draw: np.random.Generator) -> NDArray[np.intp]:
    """Orders (replicates, count) of a series: turned round, cut into blocks, these in a random order, some backwards.

    A block has the same autocorrelation backwards; without this few orders of a short series would differ.
    """
    blocks = -(-count // length)
    order = np.argsort(draw.uniform(size=(replicates, blocks)), axis=1)[..., None]
    within = np.arange(length)
    backwards = draw.integers(2, size=(replicates, blocks, 1)) == 1
    places = (order * length + np.where(backwards, within[::-1], within)).reshape(replicates, -1)
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
    driver: Array,
    series: Array,
    correlation: Array,
    length: int,
    level: float,
    replicates: int,
    draw: np.random.Generator,
) -> tuple[Array, Array]:
    """Ends (m,) of the interval of the correlation of driver (n,) with series (m, n)."""
    count = driver.size
    length = min(length, count)
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
