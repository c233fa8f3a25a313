"""The step at which a series has gone half of its way, and between which checkpoints that lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class HalfWay(NamedTuple):
    """Steps (...) of one or more series; NaN for a series that ends where it began.

    `step` lies between the checkpoints `before` and `after`; `place` (...) is that of `after` in the series.
    """

    step: Array
    before: Array
    after: Array
    place: NDArray[np.intp]


def half_way(steps: Array, values: Array) -> HalfWay:
    """Where each series, values (..., n) at ascending steps (n,) >= 0, crosses the middle of its ends for good.

    `after` is the first checkpoint from which on at least half of the way from the first value to the last is covered,
    without a return; `step` interpolates linearly in log(1 + step) between it and the checkpoint before. n >= 2; values
    are finite.
    """
    first, last = values[..., :1], values[..., -1:]
    logs = np.log1p(steps)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a series that ends where it began
        covered = (values - first) / (last - first)
        short = covered < 0.5
        place = np.clip(steps.size - np.argmax(short[..., ::-1], axis=-1), 1, steps.size - 1)
        low, high = (np.take_along_axis(covered, at[..., None], -1)[..., 0] for at in (place - 1, place))
        crossing = logs[place - 1] + (0.5 - low) / (high - low) * (logs[place] - logs[place - 1])
    moved = (first != last)[..., 0]
    step, before, after = (
        np.where(moved, where, np.nan) for where in (np.expm1(crossing), steps[place - 1], steps[place])
    )
    return HalfWay(step, before, after, place)
