"""The Hub client's cache of one repository: what is in it, and what this process brought into it.

`refs/NAME` holds a commit, `snapshots/COMMIT/` its files. Where the system has links these are links into `blobs/`,
which revisions share, and a blob may itself be a link into a store that repositories share. Elsewhere they are files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from ontogeny.dynamics.loading.repository import RemoteFile

ABANDONED = 600.0
"""Seconds without growth after which no process writes a partial file any more."""


@dataclass
class _Held:
    """A file in a snapshot that checkpoints need: the digest of its contents, and which checkpoints."""

    digest: str
    holders: set[Hashable] = field(default_factory=set)


class HubCache:
    """Where a repository's files are kept, and which of them may be removed again.

    A file may be removed when this process downloaded it and no checkpoint holds it any more. What an earlier process
    downloaded was there before, and stays.
    """

    def __init__(self, repository: str, root: Path | None) -> None:
        from huggingface_hub import constants

        self.root = Path(root or constants.HF_HUB_CACHE).expanduser().resolve()
        self.folder = self.root / f"models--{repository.replace('/', '--')}"
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._held: dict[Path, _Held] = {}
        self._brought: set[Path] = set()

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def missing(self, commit: str, files: Mapping[str, RemoteFile]) -> int:
        """How many bytes of a commit's `files` are not in the cache yet."""
        blobs = self.blobs()
        absent = {
            file.digest: file.size
            for path, file in files.items()
            if not (self.snapshot(commit) / path).exists() and file.digest not in blobs
        }
        return sum(absent.values())

    def blobs(self) -> set[str]:
        """The names of the blobs that are there."""
        folder = self.folder / "blobs"
        return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()

    def name(self, revision: str, commit: str) -> None:
        """Note what commit a revision stands for, so that offline its files are found by its name.

        A cache that cannot be written to does without.
        """
        ref = self.folder / "refs" / revision
        if revision == commit or (ref.is_file() and ref.read_text() == commit):
            return
        with suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            fresh = ref.with_name(f"{ref.name}.{os.getpid()}-{threading.get_ident()}.fresh")
            fresh.write_text(commit)
            fresh.replace(ref)

    def turn(self, digest: str) -> threading.Lock:
        """The lock of the one thread that may bring these contents."""
        return self._turns.setdefault(digest, threading.Lock())

    def hold(self, holder: Hashable, commit: str, files: Mapping[str, RemoteFile]) -> None:
        """Keep a commit's `files` from being removed until `holder` is released."""
        with self._lock:
            for path, file in files.items():
                self._held.setdefault(self.snapshot(commit) / path, _Held(file.digest)).holders.add(holder)

    def note(self, file: Path, blobs_before: Iterable[str]) -> bool:
        """Note that this process put `file` into a snapshot, and return whether its contents came with it."""
        with self._lock:
            self._brought.add(file)
            blob = blob_of(file)
            if blob is not None and blob.name in blobs_before:
                return False
            if blob is not None:
                self._brought.add(blob)
            return True

    def drop(self, file: Path) -> None:
        """Remove `file` with its contents, which are not what they should be."""
        with self._lock:
            blob = blob_of(file)
            self._remove(file)
            if blob is not None:
                self._remove(blob)

    def drop_partial(self, digest: str) -> None:
        """Remove what a download of these contents that broke off left."""
        for partial in (self.folder / "blobs").glob(f"{digest}*.incomplete"):
            self._remove(partial)

    def drop_abandoned(self, digest: str) -> None:
        """Remove what a process that was killed left of these contents, and what no later download goes on from."""
        for partial in (self.folder / "blobs").glob(f"{digest}.*.incomplete"):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                self._remove(partial)

    def release(self, holder: Hashable) -> None:
        """Remove what `holder` alone held of what this process downloaded; blobs that are still linked to stay.

        Raises OntogenyError where a file cannot be removed.
        """
        with self._lock:
            for file, held in list(self._held.items()):
                if holder not in held.holders:
                    continue
                held.holders.remove(holder)
                if not held.holders:
                    del self._held[file]
                    if file in self._brought:
                        self._remove_with_blob(file)

    def _remove_with_blob(self, file: Path) -> None:
        blob = blob_of(file)
        self._remove(file)
        if blob is None or blob not in self._brought:
            return
        about_to_be_linked = any(held.digest == blob.name for held in self._held.values())
        if not about_to_be_linked and not any(blob_of(other) == blob for other in self.snapshot("").rglob("*")):
            self._remove(blob)

    def _remove(self, file: Path) -> None:
        try:
            if file.is_symlink() and file.parent == self.folder / "blobs":
                _remove_shared(file, self.root)
            file.unlink(missing_ok=True)
        except OSError as error:
            raise OntogenyError(
                f"{file}, which was downloaded, cannot be removed ({error.strerror or error}): remove it by hand"
            ) from error
        self._brought.discard(file)


def blob_of(file: Path) -> Path | None:
    """The blob that a file of a snapshot is a link to; None where it is the file itself."""
    return Path(os.path.normpath(file.parent / file.readlink())) if file.is_symlink() else None


def _remove_shared(blob: Path, root: Path) -> None:
    """Remove a blob that is a link into the store that repositories share, and from the store what nobody links to."""
    from huggingface_hub import DeleteCacheStrategy

    nothing: frozenset[Path] = frozenset()
    strategy = DeleteCacheStrategy(0, frozenset({blob}), nothing, nothing, nothing)
    if "cache_dir" in {one.name for one in fields(strategy)}:  # clients of before the shared store have no such field
        strategy = replace(strategy, cache_dir=root)
    strategy.execute()
