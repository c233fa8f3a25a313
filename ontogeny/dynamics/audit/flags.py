"""The flags of an audit, each a pure function of what is known of the checkpoints.

Each takes what it needs of all checkpoints, in order of step, and returns place -> reason for those that it flags.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from statistics import median_low

import numpy as np

from ontogeny.dynamics.audit.evidence import Entry
from ontogeny.dynamics.audit.trend import FACTOR, off_trend

DUPLICATE, ORDER, TREND, DTYPE = "duplicate", "out of order", "off trend", "dtype"

ROUNDING = 1e-9
IDLE = {0, 1, 2}
SIZE_FACTOR = 1.5
NAMED = 3

Flagged = dict[int, str]


def same_weights(entries: Sequence[Entry], projections: np.ndarray) -> list[list[int]]:
    """Groups of two or more checkpoints with the same weights, each in order.

    The same are checkpoints whose files have one digest, or whose projections (n, projections; NaN: not measured)
    differ by no more than ROUNDING times the norm of either. Sums in float64 err by about 1e-13, and one step of
    training with any learning rate moves the weights by far more than 1e-9 of their norm.
    """
    group = list(range(len(entries)))
    norms = np.linalg.norm(projections, axis=1)
    for place, entry in enumerate(entries):
        distances = np.linalg.norm(projections[:place] - projections[place], axis=1)
        near = distances <= ROUNDING * np.maximum(norms[:place], norms[place])  # NaN is near nothing
        for other in range(place):
            if near[other] or (entry.digest is not None and entry.digest == entries[other].digest):
                group = [group[other] if one == group[place] else one for one in group]
    groups = [[place for place, of in enumerate(group) if of == one] for one in dict.fromkeys(group)]
    return [places for places in groups if len(places) > 1]


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
                partners = [name for name in names if name != entries[place].name]
                flagged[place] = f"the same weights as {named(partners)}"
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

    Of tokens the fewest checkpoints are flagged whose absence leaves them in order; equal ones are in order, since
    names round them (`tokens23B`). The record is the `global_step` in `trainer_state.json`, which transformers' trainer
    writes; it is read of local files only. Without a stated step there is no order.
    """
    flagged: Flagged = {}
    timed = [place for place, entry in enumerate(entries) if entry.tokens is not None and entry.step >= 0]
    kept = {timed[index] for index in _longest_rise([entries[place].tokens or 0.0 for place in timed])}
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
    """`dtype`: the numbers are stored in another precision than those of most checkpoints.

    Flagged is a dtype other than the one that more than half of those with a known one have. Where dtypes are not known
    (at the Hub, which tells sizes only), flagged is a size of more than SIZE_FACTOR times the median or less than its
    inverse: float32 has twice the size of float16, while buffers and headers change sizes by less. float16 and bfloat16
    are of one size.
    """
    flagged: Flagged = {}
    dtypes = Counter(entry.dtype for entry in entries if entry.dtype is not None)
    usual, count = dtypes.most_common(1)[0] if dtypes else (None, 0)
    clear = 2 * count > dtypes.total()
    sizes = [entry.size for entry in entries if entry.size]
    middle = median_low(sizes) if sizes else 0
    for place, entry in enumerate(entries):
        if entry.dtype is not None:
            if clear and entry.dtype != usual:
                flagged[place] = f"stored in {entry.dtype}, most in {usual}"
        elif entry.size and not middle / SIZE_FACTOR <= entry.size <= middle * SIZE_FACTOR:
            flagged[place] = f"{entry.size:,} bytes of weights, the median is {middle:,}: stored in another precision"
    return flagged


def named(names: Sequence[str]) -> str:
    """The first few of `names`, for a sentence."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _longest_rise(values: Sequence[float]) -> list[int]:
    """The places of a longest part of `values` that never falls."""
    ends: list[float] = []
    places: list[int] = []
    before: list[int] = []
    for place, value in enumerate(values):
        length = bisect_right(ends, value)
        before.append(places[length - 1] if length else -1)
        ends[length:] = [value, *ends[length + 1 :]]
        places[length:] = [place, *places[length + 1 :]]
    rise, place = [], places[-1] if places else -1
    while place >= 0:
        rise.append(place)
        place = before[place]
    return rise[::-1]
