"""Gathers the evidence of a series: listings of the Hub, hashes of local files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.audit.evidence import FILE, UNLISTED, Entry, Evidence, read_evidence
from ontogeny.dynamics.loading.local_listing import LocalFile
from ontogeny.dynamics.store import measured_names, write_json
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from ontogeny.dynamics.checkpoint import Checkpoint
    from ontogeny.dynamics.loading.repository import RemoteFile
    from ontogeny.dynamics.series import Series

AT_A_TIME = 8
TRAINER_STATE = "trainer_state.json"
NOT_SELECTED = "its files are on this machine and were not read, as it was not selected"
NO_FILES = "its weights are in no files"
NO_WEIGHTS = f"{UNLISTED}: it has no weight files"

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST_HEADER = 100 << 20  # safetensors' own limit


def gather(series: Series, selected: Collection[str] | None = None) -> Evidence:
    """What can be known of every checkpoint of `series`, and of its `main`, without loading one.

    Of the Hub's revisions that is one listing each, eight at a time, and no file; files on this machine are read whole,
    for their hash, but only those of the checkpoints named `selected` (None: all). What cannot be had is stated in the
    checkpoint's entry, and stops nothing.
    """
    wanted = series.checkpoints if series.main is None else (*series.checkpoints, series.main)

    def look(one: Checkpoint) -> Entry:
        if selected is not None and one.modified is not None and one.name not in selected:
            return _unknown(one, NOT_SELECTED)
        return _look(one)

    pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="ontogeny-audit")
    try:
        entries = list(pool.map(look, wanted))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for a listing that hangs
    main = None if series.main is None else entries.pop()
    if main is not None and main.problem == NO_WEIGHTS:
        main = None  # no fault: a repository may hold its checkpoints in other revisions or in folders alone
    return Evidence(series.source, tuple(entries), main, whole=not _out_of_sight(series))


def gather_into(folder: Path, series: Series, selected: Collection[str] | None = None) -> Evidence:
    """Gather the evidence of `series` and write it into the folder of a scan, atomically.

    What an earlier scan into the folder knew stays for the checkpoints that were measured, whose numbers are of the
    weights of then, and which are not read again, and for those whose files are not known now.
    """
    earlier, measured = None, measured_names(folder)
    with suppress(OntogenyError):  # what cannot be read is replaced
        earlier = read_evidence(folder)
    if earlier is None or earlier.source != series.source:
        evidence = gather(series, selected)
    else:
        known = {entry.name for entry in earlier.entries if not entry.problem} & measured
        names = {one.name for one in series.checkpoints} if selected is None else set(selected)
        evidence = gather(series, names - known).filled(earlier, measured)
    write_json(folder / FILE, evidence.to_dict())
    return evidence


def _out_of_sight(series: Series) -> bool:
    """Whether the series is one of the Hub's, and the Hub is not to be asked."""
    if not any(one.revision for one in series.checkpoints):
        return False
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _look(one: Checkpoint) -> Entry:
    if one.listing is None:
        return _unknown(one, NO_FILES)
    try:
        files = one.listing()
        if not files:
            return _unknown(one, NO_WEIGHTS)
        unhashed = [name for name, file in files.items() if not _HASH.fullmatch(file.digest)]
        if unhashed:
            return _unknown(one, f"{UNLISTED}: the listing states no hash of {unhashed[0]}")
        return Entry(
            name=one.name,
            step=one.step,
            tokens=one.tokens,
            digest=_digest(files),
            size=sum(file.size for file in files.values()),
            dtype=_dtype(files),
            trained=_trained(files),
            parts=_parts(files),
        )
    except (OntogenyError, OSError) as error:
        return _unknown(one, f"{UNLISTED}: {error}")


def _unknown(one: Checkpoint, problem: str) -> Entry:
    return Entry(one.name, one.step, one.tokens, problem=problem)


def _digest(files: Mapping[str, RemoteFile]) -> str:
    """One digest for a set of files: that of a single file, whatever its name is, else of their names and digests."""
    if len(files) == 1:
        return next(iter(files.values())).digest
    lines = "\n".join(f"{files[name].digest}  {name}" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _parts(files: Mapping[str, RemoteFile]) -> dict[str, str]:
    """The digests of files with weights, not of their index, by name; none of a single one."""
    parts = {name: files[name].digest for name in sorted(files) if not name.endswith(".index.json")}
    return parts if len(parts) > 1 else {}


def _dtype(files: Mapping[str, RemoteFile]) -> str | None:
    """The dtypes of the tensors in local safetensors, joined by a plus; None for other files."""
    paths = [file.path for file in files.values() if isinstance(file, LocalFile) and file.path.suffix == ".safetensors"]
    return "+".join(sorted({dtype for path in paths for dtype in _header_dtypes(path)})) or None


def _header_dtypes(path: Path) -> set[str]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            return {str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise OntogenyError(f"{path} has no header of safetensors ({error})") from error


def _trained(files: Mapping[str, RemoteFile]) -> int | None:
    """The step that transformers' trainer noted beside local weights; None where there is no note that can be read."""
    for folder in {file.path.parent for file in files.values() if isinstance(file, LocalFile)}:
        try:
            step = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(step, int) and not isinstance(step, bool):
            return step
    return None
