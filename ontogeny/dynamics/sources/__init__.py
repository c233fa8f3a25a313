"""Where checkpoint series come from: one file a source."""

from __future__ import annotations

import re
from pathlib import Path

from ontogeny.dynamics.loading.files import STATE_DICTS
from ontogeny.dynamics.series import Series
from ontogeny.errors import UsageError

_HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(\S+))?", re.ASCII)


def open_series(source: str) -> Series:
    """Open the series that `source` names.

    In this order: `pocket`, `smollm2`, a `.gguf` file, a file of a state dict, a folder, a Hub id (`owner/name`, or
    `owner/name@part` for one of its runs or revisions).
    Raises OntogenyError where the source cannot be opened, UsageError where it is none of these.
    """
    if source == "pocket":
        from ontogeny.dynamics.sources.pocket import open_pocket

        return open_pocket()
    if source == "smollm2":
        from ontogeny.dynamics.sources.smollm2 import open_smollm2

        return open_smollm2()
    path, kind = _what_is_there(source)
    if kind == "file" and path.suffix == ".gguf":
        from ontogeny.dynamics.sources.gguf import open_gguf

        return open_gguf(path)
    if kind == "file" and path.suffix in STATE_DICTS:
        from ontogeny.dynamics.sources.local import open_file

        return open_file(path)
    if kind == "folder":
        from ontogeny.dynamics.sources.local import open_local

        return open_local(path)
    hub = _HUB_ID.fullmatch(source)
    if hub and kind == "nothing" and path.suffix != ".gguf":
        from ontogeny.dynamics.sources.hub import open_hub

        return open_hub(hub[1], hub[2])
    raise UsageError(
        f"unknown source {source!r}: expected a Hub id (owner/name), an existing folder of checkpoints or one "
        f"checkpoint folder, an existing .gguf file or state dict ({', '.join(STATE_DICTS)}), `smollm2` or `pocket`"
    )


def _what_is_there(source: str) -> tuple[Path, str]:
    """The path that `source` spells, and what lies there: a `file`, a `folder`, `nothing`, or `something` else."""
    path = Path(source)
    try:
        path = path.expanduser()
        if source and path.is_dir():
            return path, "folder"
        if path.is_file():
            return path, "file"
        return path, "something" if path.is_symlink() or path.exists() else "nothing"
    except (OSError, RuntimeError, ValueError):  # too long, a home that is not known, a null character
        return path, "something"
