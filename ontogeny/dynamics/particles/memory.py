"""The memory that a simulation takes, against what is free, before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from ontogeny.errors import UsageError

PAIR_ARRAYS = 8  # (n, n) arrays of 8 bytes held at a time, measured with 1500 particles; mergers of many take more
GIB = 1 << 30


def require_memory(shape: tuple[int, int, int], betas: int, times: int, thresholds: int, *, keep_states: bool) -> None:
    """Raise UsageError where starts of `shape` (samples, n, d) with so much to record would not fit what is free."""
    samples, n, d = shape
    pairs = 8 * PAIR_ARRAYS * n**2
    recorded = times * (2 + 2 * thresholds + keep_states * n * d) + 10 * thresholds * n + 6 * n * d
    record = 8 * betas * samples * recorded
    free = free_memory()
    if free is None or pairs + record <= free:
        return
    if pairs > record:
        what, cure = f"for pairs of {n:,} particles", "take fewer particles"
    else:
        what = f"for the record of {betas:,} betas x {samples:,} samples at {times:,} times"
        cure = "take fewer betas, samples or times" + (", or keep no states" if keep_states else "")
    raise UsageError(
        f"expected a simulation that fits the memory that is free, {free / GIB:,.1f} GiB, got one that takes at least "
        f"{(pairs + record) / GIB:,.1f} GiB {what}: {cure}"
    )


def free_memory() -> int | None:
    """Bytes that are free for this process, its container's limit included; None where the system does not tell."""
    found = [_available(), _container()]
    return min((one for one in found if one is not None), default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _container() -> int | None:
    """What a control group (version 2) leaves; page cache that it could give back counts as taken."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, taken = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # "max": no limit
        return None
    return max(limit - taken, 0)
