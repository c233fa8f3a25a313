"""Mergers and plateaus. Both follow the lowest cluster count so far.

A merger is the moment when there are fewer clusters than ever before; a plateau is the time between two mergers, while
the lowest count is some 1 < count < n. Where counts only fall, as along SA and USA of identity matrices, these are all
changes of the count. Where they rise too (other matrices, noise), a count that falls and recovers is one merger, at its
first fall, and the plateau after it lasts until there are fewer clusters still.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ontogeny.dynamics.particles.components import linkage

ROUNDS = 60
NARROW = 1e-13


def crossing(states: Callable[[Tensor, Tensor], Tensor], which: Tensor, edge: Tensor, threshold: Tensor) -> Tensor:
    """The share of its step at which each of m linkages crosses its threshold, (m,), by false position (Illinois).

    `states(which, share)` are the states (m, n, d) inside the steps of trajectories `which` (m,). The cosine of the
    tree's `edge` (m,) does not exceed the threshold at the start of the step, and does at its end.
    """

    def excess(some: Tensor, share: Tensor) -> Tensor:
        x = states(which[some], share)
        return linkage(x @ x.mT).gather(1, edge[some, None])[:, 0] - threshold[some]

    everything = torch.arange(len(which))
    low, high = torch.zeros(len(which), dtype=torch.float64), torch.ones(len(which), dtype=torch.float64)
    below, above = excess(everything, low), excess(everything, high)
    open_ = everything
    for _ in range(ROUNDS):
        open_ = open_[(high[open_] - low[open_] > NARROW) & (above[open_] > NARROW) & (below[open_] < 0)]
        if not len(open_):
            break
        a, b, fa, fb = low[open_], high[open_], below[open_], above[open_]
        share = a - fa * (b - a) / (fb - fa)
        found = excess(open_, share)
        past = found > 0
        low[open_], high[open_] = torch.where(past, a, share), torch.where(past, share, b)
        below[open_] = torch.where(past, fa / 2, found)
        above[open_] = torch.where(past, found, fb / 2)
    return high


def plateaus(first: np.ndarray, mergers: np.ndarray, particles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and counts of plateaus, (..., n - 1) each, from mergers' times (..., n - 1), NaN where none.

    `first` (...) is the count at time 0. The last plateau is open, with end NaN, where its merger was not seen.
    Without a plateau: NaN, NaN, -1.
    """
    times = np.concatenate([np.zeros_like(mergers[..., :1]), mergers], axis=-1)
    count = first[..., None] - np.arange(particles - 1)
    start, end = times[..., :-1], times[..., 1:]
    held = (count > 1) & (count < particles) & ~np.isnan(start) & ~(end == start)
    order = np.argsort(~held, axis=-1, kind="stable")
    held, start, end, count = (np.take_along_axis(one, order, -1) for one in (held, start, end, count))
    return np.where(held, start, np.nan), np.where(held, end, np.nan), np.where(held, count, -1)
