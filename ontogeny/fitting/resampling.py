"""What the spread over sequences says of a fit: weights for its points, and intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.emergence import EmergenceFit, Interval, Loss, fit_curves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SEED = 20250803
LEAST_VARIANCE = 0.01  # of a series' median variance: a point whose sequences happen to agree must not decide alone
RESAMPLED = ("final_value", "peak_value", "peak_step", "half_rise_step")


def inverse_variance(variance: Array) -> Array:
    """Weights of points (m, n) from the variances of their means.

    A variance below a hundredth of its series' median (where that is 0: of the median of the others) counts as that.
    A series with one that is not finite has values that are not finite either: its points are weighted alike, as are
    those of a series without any variance.
    """
    return np.array([_inverse(row) for row in variance]).reshape(variance.shape)


def _inverse(variance: Array) -> Array:
    positive = variance[variance > 0]
    if not np.isfinite(variance).all() or not positive.size:
        return np.ones_like(variance)
    return 1 / np.maximum(variance, LEAST_VARIANCE * (np.median(variance) or np.median(positive)))


def bootstrap_intervals(
    steps: Array,
    resample: Callable[[NDArray[np.intp]], Array],
    sequences: int,
    replicates: int,
    level: float,
    loss: Loss,
) -> list[dict[str, Interval]]:
    """Percentile intervals of each series, by fitting it again on sequences that are drawn with replacement.

    `resample(which)` gives the series (m, n) over the sequences `which`. A quantity is left out where more than the
    part outside the interval of the replicates has none, as a curve without a peak has no peak's step.
    """
    draw = np.random.default_rng(SEED)
    rows = np.stack([resample(draw.integers(sequences, size=sequences)) for _ in range(replicates)])
    _, series, points = rows.shape
    fits = fit_curves(steps, rows.reshape(replicates * series, points), loss=loss)
    return [_percentiles(fits[one::series], level) for one in range(series)]


def _percentiles(fits: list[EmergenceFit], level: float) -> dict[str, Interval]:
    found = {}
    for name in RESAMPLED:
        values = [value for fit in fits if (value := getattr(fit, name)) is not None]
        if len(values) >= level * len(fits) and values:
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            found[name] = Interval(float(low), float(high))
    return found
