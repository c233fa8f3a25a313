"""The hashes that tell files' contents apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SHA256_DIGITS = 64


def sha256_of(file: Path) -> str:
    """The sha256 of a file's contents, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def has_digest(file: Path, digest: str) -> bool:
    """Whether the contents of `file` have `digest`: a sha256 (64 hexadecimal digits), or else git's blob hash."""
    if len(digest) == _SHA256_DIGITS:
        return sha256_of(file) == digest
    contents = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest() == digest
