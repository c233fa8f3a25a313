"""Room on disk for what is about to be downloaded."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from ontogeny.errors import OntogenyError

MARGIN = 256 * 2**20
"""Bytes that a download leaves free: a disk that is full to the last byte breaks whatever else runs."""

_ADVICE = "free some, keep fewer checkpoints (`--keep none`), or set HF_HOME to a folder on a larger disk"


def refuse_full_disk(folder: Path, size: int, what: str) -> None:
    """Raise OntogenyError where `size` bytes, the download of `what`, do not fit into `folder` with a margin.

    `folder` need not be there yet. Where nothing is to be downloaded nothing is asked.
    """
    if size == 0:
        return
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < size + MARGIN:
        raise OntogenyError(
            f"{what} takes {_told(size)} to download and {_told(free)} are free at {folder}, of which {_told(MARGIN)} "
            f"stay free: {_ADVICE}"
        )


def full_disk(folder: Path, error: BaseException | None, what: str) -> OntogenyError | None:
    """What to say where `error` means that the disk of `folder` filled up during the download of `what`; else None."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return OntogenyError(f"the disk filled up while {what} was downloaded to {folder}: {_ADVICE}")


def _told(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
