"""The weight files of a checkpoint on this machine, as a listing of the Hub would show them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ontogeny.dynamics.loading.contents import sha256_of
from ontogeny.dynamics.loading.files import weight_files
from ontogeny.dynamics.loading.repository import RemoteFile


@dataclass(frozen=True)
class LocalFile(RemoteFile):
    """A listed file that lies at `path` on this machine."""

    path: Path


def list_local(place: Path) -> dict[str, RemoteFile]:
    """The weight files of the checkpoint at `place`, a folder or a file, by name; each is read for its sha256.

    Raises OSError where one cannot be read.
    """
    return {file.name: LocalFile(file.stat().st_size, sha256_of(file), file) for file in weight_files(place)}
