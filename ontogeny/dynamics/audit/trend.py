"""Which weights lie off the path that the others go."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

FACTOR = 2.0
FEWEST = 5
MOST = 1 / 3

Places: TypeAlias = np.ndarray | int


def off_trend(projections: np.ndarray) -> list[int] | None:
    """The rows of `projections` (checkpoints in order, projections) that lie off the path of the others, in order.

    Meaning: a path that goes far away and comes back to where it was. Each three checkpoints in order are a detour
    where the middle one is more than FACTOR times as far from both others as these are from each other. The checkpoint
    that takes part in most detours is taken out (all of them, where several take part in as many: nothing tells which
    of them is off), until none is left.

    Why 2: the smaller of the two distances is at most half of the third on a straight path, about 0.71 of it on a
    random walk, and 1 in noise around one point; distances estimated of 64 projections err by 9 % (one standard
    deviation). Weights of a late step that an early one serves make detours with every step between, at the ends of a
    series too; but where the first step and the last have the same weights, nothing tells which of them is right.

    None where more than a third would be taken out: then there is no path to be off. Fewer than five are not judged.
    """
    count = len(projections)
    if count < FEWEST:
        return []
    distances = np.stack([np.linalg.norm(projections - row, axis=1) for row in projections])
    kept = np.ones(count, dtype=bool)
    parts = _parts(distances)
    while parts.any():
        for place in np.flatnonzero(parts == parts.max()):
            parts -= _parts_with(distances, kept, int(place))
            kept[place] = False
        if (~kept).sum() > MOST * count:
            return None
    return [int(row) for row in np.flatnonzero(~kept)]


def _parts(distances: np.ndarray) -> np.ndarray:
    """In how many detours each checkpoint takes part."""
    parts, far = np.zeros(len(distances), dtype=np.int64), FACTOR * distances
    for middle in range(1, len(distances) - 1):
        before, after = distances[:middle, middle], distances[middle, middle + 1 :]
        found = np.minimum(before[:, None], after) > far[:middle, middle + 1 :]
        if found.any():
            parts[middle] += found.sum()
            parts[:middle] += found.sum(axis=1)
            parts[middle + 1 :] += found.sum(axis=0)
    return parts


def _parts_with(distances: np.ndarray, kept: np.ndarray, place: int) -> np.ndarray:
    """The same, of the detours that `place` takes part in with two others of those `kept`."""
    before, after = np.flatnonzero(kept[:place]), place + 1 + np.flatnonzero(kept[place + 1 :])
    parts = np.zeros(len(distances), dtype=np.int64)

    def detours(first: Places, middle: Places, last: Places) -> np.ndarray:
        legs = np.minimum(distances[first, middle], distances[middle, last])
        found: np.ndarray = (legs > FACTOR * distances[first, last]) & (first < middle) & (middle < last)
        parts[place] += found.sum()
        return found

    around = detours(before[:, None], place, after)
    ahead = detours(place, after[:, None], after)
    behind = detours(before[:, None], before, place)
    parts[before] += around.sum(axis=1) + behind.sum(axis=1) + behind.sum(axis=0)
    parts[after] += around.sum(axis=0) + ahead.sum(axis=1) + ahead.sum(axis=0)
    return parts
