"""The flags of an audit, each a pure function of what is known of the checkpoints.

Each takes what it needs of all checkpoints, in order of step, and returns place -> reason for those that it flags.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median_low

import numpy as np

from ontogeny.dynamics.audit.evidence import Entry
from ontogeny.dynamics.audit.trend import FACTOR, off_trend

DUPLICATE, ORDER, TREND, DTYPE = "duplicate", "out of order", "off trend", "dtype"

ROUNDING = 1e-9
IDLE = {0, 1, 2}
SIZE_FACTOR = 1.5
IN_A_ROW = 3
NAMED = 3

Flagged = dict[int, str]


def same_weights(entries: Sequence[Entry], projections: np.ndarray) -> list[list[int]]:
    """Groups of two or more checkpoints with the same weights, each in order.

    The same are checkpoints whose files have one digest, or whose projections (n, projections; NaN: not measured)
    differ by no more than ROUNDING times the norm of either. Sums in float64 err by about 1e-13, and one step of
    training with any learning rate moves the weights by far more than 1e-9 of their norm.
    """
    norms = np.linalg.norm(projections, axis=1)
    by_digest: dict[str, int] = {}
    group = np.arange(len(entries))
    for place, entry in enumerate(entries):
        distances = np.linalg.norm(projections[:place] - projections[place], axis=1)
        near = distances <= ROUNDING * np.maximum(norms[:place], norms[place])  # NaN is near nothing
        same = set(group[:place][near])
        if entry.digest is not None:
            same.add(group[by_digest.setdefault(entry.digest, place)])
        if same:
            group[place] = min(same)
            group[np.isin(group, list(same))] = min(same)
    return [np.flatnonzero(group == one).tolist() for one in np.unique(group) if np.count_nonzero(group == one) > 1]


def duplicates(entries: Sequence[Entry], groups: Sequence[Sequence[int]], main: str | None) -> Flagged:
    """`duplicate`: the same weights as another checkpoint, so that at most one of them is what its name says.

    All of a group are flagged, as nothing tells which is right, with two exceptions. The last step of the series stays
    where its files are those of `main` (its digest), which is what a training ended with. Step 0 and steps 1 and 2 may
    be the same (IDLE): a learning rate that warms up from 0, or updates skipped until float16's loss scale fits, move
    nothing in the first steps. So it is in all of Pythia.
    """
    flagged: Flagged = {}
    for group in groups:
        names = [entries[place].name for place in group]
        if is_idle(entries, group):
            continue
        for place in group:
            is_last = place == len(entries) - 1 and main is not None and entries[place].digest == main
            if not is_last:
                partners = [name for name in reversed(names) if name != entries[place].name]
                flagged[place] = f"the same weights as {named(partners, NAMED if len(partners) <= NAMED else 1)}"
    return flagged


def is_idle(entries: Sequence[Entry], group: Sequence[int]) -> bool:
    """Whether a group of the same weights is step 0 with steps soon after, when training may not have moved them."""
    steps = {entries[place].step for place in group}
    return 0 in steps and steps <= IDLE


def shared_parts(entries: Sequence[Entry], main: str | None) -> Flagged:
    """`duplicate`, in part: of several weight files some are those of another checkpoint, whose weights differ else.

    So it was in pythia-12b, where two steps served the first shard of the last. Files that more than half of the
    checkpoints share are no fault: a frozen part. As in `duplicates`, the last step stays where it equals `main`.
    """
    holders: dict[str, set[int]] = {}
    for place, entry in enumerate(entries):
        for digest in entry.parts.values():
            holders.setdefault(digest, set()).add(place)
    flagged: Flagged = {}
    sharded = sum(bool(entry.parts) for entry in entries)
    for place, entry in enumerate(entries):
        if place == len(entries) - 1 and main is not None and entry.digest == main:
            continue
        shared = [digest for digest in entry.parts.values() if 1 < len(holders[digest]) <= sharded / 2]
        others = sorted({other for digest in shared for other in holders[digest] - {place}})
        others = [other for other in others if entries[other].digest != entry.digest]
        if others:
            partners = named([entries[other].name for other in others])
            flagged[place] = f"shares {len(shared)} of {len(entry.parts)} weight files with {partners}"
    return flagged


def out_of_order(entries: Sequence[Entry]) -> Flagged:
    """`out of order`: tokens that do not grow with the step, or a trainer's record beside it that states another step.

    Of tokens the checkpoints are flagged without which the most of them are in order; where several choices leave as
    many, as with two that are exchanged, all of these. Equal ones are in order, since names round them (`tokens23B`).
    The record is the `global_step` in `trainer_state.json`, which transformers' trainer
    writes; it is read of local files only. Without a stated step there is no order.
    """
    flagged: Flagged = {}
    timed = [place for place, entry in enumerate(entries) if entry.tokens is not None and entry.step >= 0]
    kept = {timed[index] for index in _in_every_rise([entries[place].tokens or 0.0 for place in timed])}
    for place in timed:
        if place not in kept:
            flagged[place] = f"its {entries[place].tokens:.4g} tokens are not in the order of the steps"
    for place, entry in enumerate(entries):
        if entry.trained is not None and entry.step >= 0 and entry.trained != entry.step:
            flagged[place] = f"its trainer_state.json states step {entry.trained}"
    return flagged


def off_the_trend(projections: np.ndarray, doubtful: set[int]) -> Flagged | None:
    """`off trend`: weights that the training's path leaves far behind, or has not come to yet (see `off_trend`).

    Judged are the checkpoints with projections (n, projections), without those that are `doubtful` for another reason
    and would spoil the others' comparison. None where the weights follow no path that one could be off.
    """
    measured = np.flatnonzero(np.isfinite(projections).all(axis=1))
    judged = np.array([place for place in measured if place not in doubtful], dtype=int)
    off = off_trend(projections[judged])
    reason = f"the path of the weights leads past it: others are over {FACTOR:g} times nearer to each other than to it"
    return None if off is None else {int(judged[row]): reason for row in off}


def other_dtype(entries: Sequence[Entry]) -> Flagged:
    """`dtype`: the numbers are stored in another precision than those of the checkpoints before and after.

    Flagged are up to IN_A_ROW checkpoints in a row whose dtype is not that of more than half of the series, which those
    before and after them have. A series that changes its precision for good, or only at its end, is so left alone.
    Where dtypes are not known (at the Hub, which tells sizes only), it is the size that differs, by more than
    SIZE_FACTOR from the median: float32 has twice the size of float16, while buffers and headers change sizes by less.
    float16 and bfloat16 are of one size.
    """
    dtypes = {place: entry.dtype for place, entry in enumerate(entries) if entry.dtype is not None}
    flagged = {place: f"stored in {dtypes[place]}, most in {usual}" for place, usual in _strays(dtypes)}
    sizes = {place: entry.size for place, entry in enumerate(entries) if entry.size and entry.dtype is None}
    middle = median_low(sizes.values()) if sizes else 0
    classes = {
        place: "larger" if size > SIZE_FACTOR * middle else "smaller" if SIZE_FACTOR * size < middle else "usual"
        for place, size in sizes.items()
    }
    for place, _ in _strays(classes):
        flagged[place] = f"{sizes[place]:,} bytes of weights, the median is {middle:,}: stored in another precision"
    return flagged


def _strays(kinds: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """The places of a few in a row that are not of the kind of most, between two that are; and that kind."""
    usual, count = Counter(kinds.values()).most_common(1)[0] if kinds else ("", 0)
    runs = [list(run) for _, run in groupby(kinds, key=lambda place: kinds[place] == usual)]
    for run in runs[1:-1]:
        if 2 * count > len(kinds) and kinds[run[0]] != usual and len(run) <= IN_A_ROW:
            yield from ((place, usual) for place in run)


def named(names: Sequence[str], most: int = NAMED) -> str:
    """The first few of `names`, for a sentence."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _in_every_rise(values: Sequence[float]) -> list[int]:
    """The places that every longest part of `values` that never falls has."""
    until = _rises(values)
    after = _rises([-value for value in reversed(values)])[::-1]
    longest = max(until, default=0)
    inside = [place for place in range(len(values)) if until[place] + after[place] - 1 == longest]
    ranks = Counter(until[place] for place in inside)
    return [place for place in inside if ranks[until[place]] == 1]


def _rises(values: Sequence[float]) -> list[int]:
    """The length of the longest part that never falls and ends at each place."""
    ends: list[float] = []
    lengths = []
    for value in values:
        rank = bisect_right(ends, value)
        ends[rank : rank + 1] = [value]
        lengths.append(rank + 1)
    return lengths
