"""Mergers and plateaus. Both follow the highest cluster count from a time on.

A merger is the moment from which on there are never again as many clusters as before it; a plateau is the time between
two mergers, while that highest count is some 1 < count < n, and the first begins when the count was first at its
highest. Where counts only fall, these are all changes of the count. But they also rise: particles that lie in a chain
at first are one component until they gather in several clusters, and other matrices or noise take clusters apart. Then
a count that falls and recovers is no merger. What comes and goes within one step of the integration is not seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ontogeny.dynamics.particles.components import linkage
from ontogeny.dynamics.particles.step import Step, along

ROUNDS = 60
NARROW = 1e-13
NEVER = 2.0


def joinings(step: Step, which: Tensor, threshold: Tensor) -> Tensor:
    """When the clusters of k trajectories `which` of a step join, as shares of it, ascending, (k, n - 1).

    0 for what was joined before, 2 for what is not by the end. The linkage is that of the moments at which pairs, not
    both near at the start, come to exceed the `threshold` (k,).
    """
    ends = step.at(which, torch.zeros_like(threshold)), step.x[which]
    before, after = (x @ x.mT > threshold[:, None, None] for x in ends)
    moment = torch.where(after, 0.0, NEVER).to(threshold.dtype)
    event, i, j = (after & ~before).triu(1).nonzero(as_tuple=True)
    pair = step.inside.path(which[event], i), step.inside.path(which[event], j)
    moment[event, i, j] = moment[event, j, i] = _crossing(*pair, threshold[event])
    return -linkage(-moment)


def _crossing(a: Tensor, b: Tensor, threshold: Tensor) -> Tensor:
    """Where on their paths (m, d, degree + 1) pairs come to exceed thresholds (m,), by false position (Illinois)."""
    low, high = torch.zeros_like(threshold), torch.ones_like(threshold)

    def excess(some: Tensor, share: Tensor) -> Tensor:
        return (along(a[some], share) * along(b[some], share)).sum(-1) - threshold[some]

    left = torch.arange(len(threshold))
    below, above = excess(left, low), excess(left, high)
    last = torch.zeros_like(threshold)  # 1 where the upper end moved last, -1 where the lower did
    for _ in range(ROUNDS):
        left = left[(high[left] - low[left] > NARROW) & (above[left] > NARROW) & (below[left] < -NARROW)]
        if not len(left):
            break
        share = low[left] - below[left] * (high[left] - low[left]) / (above[left] - below[left])
        found = excess(left, share)
        past = found > 0
        up, down = left[past], left[~past]
        low[down], below[down] = share[~past], found[~past]
        high[up], above[up] = share[past], found[past]
        above[down] = torch.where(last[down] < 0, above[down] / 2, above[down])
        below[up] = torch.where(last[up] > 0, below[up] / 2, below[up])
        last[down], last[up] = -1, 1
    return torch.where(below >= -NARROW, low, high)


def plateaus(highest: np.ndarray, peak: np.ndarray, mergers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and counts of plateaus, (..., n - 1) each, from mergers' times (..., n - 1), NaN where none.

    `highest` (...) is the highest count, `peak` (...) when it was first reached. The last plateau is open, with end
    NaN, where its merger was not seen. Without a plateau: NaN, NaN, -1.
    """
    room = mergers.shape[-1]
    times = np.concatenate([peak[..., None], mergers], axis=-1)
    count = highest[..., None] - np.arange(room)
    start, end = times[..., :-1], times[..., 1:]
    held = (count > 1) & (count <= room) & ~np.isnan(start) & ~(end == start)
    order = np.argsort(~held, axis=-1, kind="stable")
    held, start, end, count = (np.take_along_axis(one, order, -1) for one in (held, start, end, count))
    return np.where(held, start, np.nan), np.where(held, end, np.nan), np.where(held, count, -1)
