"""Which weights lie off the path that the others go."""

from __future__ import annotations

import numpy as np

FACTOR = 2.0
FEWEST = 5
MOST = 1 / 3


def off_trend(projections: np.ndarray) -> list[int] | None:
    """The rows of `projections` (checkpoints in order, projections) that lie off the path of the others, in order.

    Meaning: a path that goes far away and comes back to where it was. Each three checkpoints in order are a detour
    where the middle one is more than FACTOR times as far from both others as these are from each other. The checkpoint
    that takes part in most detours is taken out (all of them, where several take part in as many), until none is left.

    Why 2: the smaller of the two distances is at most half of the third on a straight path, about 0.71 of it on a
    random walk, and 1 in noise around one point; distances estimated of 64 projections err by 9 % (one standard
    deviation). Weights of a late step that an early one serves make detours with every step between, at the ends of a
    series too; but where the first step and the last have the same weights, nothing tells which of them is right.

    None where more than a third would be taken out: then there is no path to be off. Fewer than five are not judged.
    """
    count = len(projections)
    if count < FEWEST:
        return []
    distances = np.linalg.norm(projections[:, None, :] - projections[None, :, :], axis=-1)
    kept = np.ones(count, dtype=bool)
    parts = _parts(distances)
    while parts.max() > 0:
        for worst in np.flatnonzero(parts == parts.max()):
            parts -= _parts_with(distances, kept, int(worst))
            kept[worst] = False
        if kept.sum() < (1 - MOST) * count:
            return None
    return [int(row) for row in np.flatnonzero(~kept)]


def _parts(distances: np.ndarray) -> np.ndarray:
    """In how many detours each checkpoint takes part."""
    count = len(distances)
    parts, seen = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    for place in range(count):
        seen[place] = True
        parts += _parts_with(distances, seen, place)
    return parts


def _parts_with(distances: np.ndarray, kept: np.ndarray, place: int) -> np.ndarray:
    """In how many of the detours through `place` each of the `kept` checkpoints takes part."""
    before, after = np.flatnonzero(kept[:place]), place + 1 + np.flatnonzero(kept[place + 1 :])
    parts = np.zeros(len(distances), dtype=np.int64)
    for rows, columns, (first, middle, last) in (
        (before, after, (before[:, None], place, after)),
        (after, after, (place, after[:, None], after)),
        (before, before, (before[:, None], before, place)),
    ):
        legs = np.minimum(distances[first, middle], distances[middle, last])
        detours = (legs > FACTOR * distances[first, last]) & (first < middle) & (middle < last)
        parts[rows] += detours.sum(axis=1)
        parts[columns] += detours.sum(axis=0)
        parts[place] += detours.sum()
    return parts
