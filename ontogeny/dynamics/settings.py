"""The settings of a scan that change its numbers: two scans that agree on them may share a folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from ontogeny.errors import OntogenyError


@dataclass(frozen=True)
class ScanSettings:
    """What every checkpoint of a scan is measured with. Which steps are measured is not part of it.

    `impl` is the implementation of attention: they differ by rounding. `definitions` is the version of the probes'
    definitions, which changes with the meaning of any number.
    """

    source: str
    probes: tuple[str, ...]
    corpus_fingerprint: str
    sequences: int
    length: int
    bos: str
    positions: int | None
    dtype: str
    device: str
    impl: str
    definitions: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ScanSettings:
        """The inverse of `to_dict`. Raises OntogenyError where the fields are not those of this version."""
        if set(values) != {field.name for field in fields(cls)}:
            raise OntogenyError("the scan's settings are those of another version of Ontogeny: use a new folder")
        return cls(**{**values, "probes": tuple(values["probes"])})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**asdict(self), "probes": list(self.probes)}

    @property
    def fingerprint(self) -> str:
        """A digest: the same for the same settings."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: ScanSettings) -> list[str]:
        """A phrase for each setting in which `other` differs from this one."""
        mine, theirs = self.to_dict(), other.to_dict()
        different = [name for name in mine if mine[name] != theirs[name]]
        asked_for = [name for name in different if name != "corpus_fingerprint"]  # which follows from the others
        return [f"{name} {mine[name]!r}, not {theirs[name]!r}" for name in asked_for or different]
