"""Which steps a series should have and has not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

PYTHIA = re.compile(r"EleutherAI/pythia-\d[\d.]*[mb](?:-deduped|(?:-data|-weight)?-seed\d+)?", re.IGNORECASE)
PYTHIA_STEPS = (0, *(2**power for power in range(10)), *range(1000, 144_000, 1000))

MOST = 0.8
LEAST_GAPS = 8


def missing_steps(source: str, steps: Collection[int]) -> tuple[list[int], str]:
    """The steps that `source` should have besides `steps`, in order, and how that is known.

    Meaning: a finding about the series, no checkpoint's fault. The suites whose grid is published are held against it:
    EleutherAI's Pythia (0, 1, 2, 4, ..., 512, 1000, 2000, ..., 143000; arXiv 2304.01373). Of other series the grid is
    inferred, where it is plain: from the first step of a stride on that MOST of at least LEAST_GAPS gaps have, holes
    are gaps of a whole multiple of it, with a gap of one stride before and after. A series that was thinned on purpose,
    or whose stride changes, has none.
    """
    known = sorted({step for step in steps if step >= 0})
    if PYTHIA.fullmatch(source):
        return sorted(set(PYTHIA_STEPS) - set(known)), "the published grid of Pythia (arXiv 2304.01373)"
    stride = _stride(known)
    if stride is None:
        return [], ""
    return _holes(known, stride), f"the steps of most others, {stride} apart"


def _stride(steps: Sequence[int]) -> int | None:
    gaps = _gaps(steps)
    if not gaps:
        return None
    stride, _ = Counter(gaps).most_common(1)[0]
    regular = gaps[gaps.index(stride) :]
    share = regular.count(stride) / len(regular)
    return stride if len(regular) >= LEAST_GAPS and share >= MOST else None


def _holes(steps: Sequence[int], stride: int) -> list[int]:
    gaps = _gaps(steps)
    return [
        step
        for place in range(1, len(gaps) - 1)
        if gaps[place] > stride and gaps[place] % stride == 0 and gaps[place - 1] == gaps[place + 1] == stride
        for step in range(steps[place] + stride, steps[place + 1], stride)
    ]


def _gaps(steps: Sequence[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(steps)]
