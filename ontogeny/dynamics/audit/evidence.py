"""What is known of a series' weights without loading them, and its form on disk."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ontogeny.errors import OntogenyError

FILE = "audit.json"
FORMAT = 1
UNLISTED = "not listed"


@dataclass(frozen=True)
class Entry:
    """What is known of one checkpoint's weights.

    `digest` tells the contents of its weight files and `size` is theirs in bytes, `dtype` that of the stored numbers
    (as safetensors spell it: F32, BF16), `trained` the step that a trainer's own record beside them states; each None
    where it is not known. `parts` are the hashes of the files by name, where there are several. `problem` says why the
    files are not known, empty where they are.
    """

    name: str
    step: int
    tokens: float | None = None
    digest: str | None = None
    size: int | None = None
    dtype: str | None = None
    trained: int | None = None
    parts: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Whether its files should be known and could not be listed."""
        return self.problem.startswith(UNLISTED)


@dataclass(frozen=True)
class Evidence:
    """The entries of all checkpoints of the series `source`, in order, and that of its `main` where it has one.

    `whole` is False where the source may hold other checkpoints that are out of sight, as the Hub does offline.
    """

    source: str
    entries: tuple[Entry, ...]
    main: Entry | None = None
    whole: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The evidence as plain JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evidence:
        """The inverse of `to_dict`. Raises OntogenyError for evidence of another version."""
        try:
            if values["format"] != FORMAT:
                raise KeyError("format")
            entries = tuple(_entry(one) for one in values["entries"])
            main = None if values["main"] is None else _entry(values["main"])
            return cls(values["source"], entries, main, values["whole"])
        except (KeyError, TypeError) as error:
            raise OntogenyError(
                f"expected the evidence of an audit, of format {FORMAT}; it lacks or misstates {error}"
            ) from error

    def filled(self, earlier: Evidence, measured: Collection[str]) -> Evidence:
        """This evidence, and what `earlier` says of checkpoints that were `measured` then, or are not known in it."""
        known = {entry.name: entry for entry in earlier.entries if not entry.problem}
        entries = [
            known.get(entry.name, entry) if entry.problem or entry.name in measured else entry for entry in self.entries
        ]
        main = earlier.main if self.main and self.main.problem and earlier.main else self.main
        return replace(self, entries=tuple(entries), main=main)

    def unlisted(self) -> Iterator[Entry]:
        """The entries, `main` included, whose files are not known."""
        return (entry for entry in (*self.entries, *([self.main] if self.main else [])) if entry.problem)


def read_evidence(folder: Path) -> Evidence | None:
    """The evidence in a scan's folder; None where the scan has none. Raises OntogenyError where it cannot be read."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Evidence.from_dict(values)
    except (OSError, ValueError, OntogenyError) as error:
        raise OntogenyError(
            f"{file} cannot be read ({error}): remove it, and the next `ontogeny scan` into this folder makes it again"
        ) from error


def _entry(values: dict[str, Any]) -> Entry:
    return Entry(**{one.name: values[one.name] for one in fields(Entry)})
