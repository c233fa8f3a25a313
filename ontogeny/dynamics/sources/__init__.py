"""Where checkpoint series come from: one file a source."""

from __future__ import annotations

import re
from pathlib import Path

from ontogeny.dynamics.series import Series
from ontogeny.errors import UsageError

_HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(\S+))?", re.ASCII)


def open_series(source: str) -> Series:
    """Open the series that `source` names.

    In this order: `pocket`, `smollm2`, a `.gguf` file, a folder, a Hub id (`owner/name`, or `owner/name@part` for one
    of its runs or revisions).
    Raises OntogenyError where the source cannot be opened, UsageError where it is none of these.
    """
    if source == "pocket":
        from ontogeny.dynamics.sources.pocket import open_pocket

        return open_pocket()
    if source == "smollm2":
        from ontogeny.dynamics.sources.smollm2 import open_smollm2

        return open_smollm2()
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        from ontogeny.dynamics.sources.gguf import open_gguf

        return open_gguf(path)
    if source and path.is_dir():
        from ontogeny.dynamics.sources.local import open_local

        return open_local(path)
    hub = _HUB_ID.fullmatch(source)
    if hub and not path.exists() and path.suffix != ".gguf":
        from ontogeny.dynamics.sources.hub import open_hub

        return open_hub(hub[1], hub[2])
    raise UsageError(
        f"unknown source {source!r}: expected a Hub id (owner/name), an existing folder of checkpoints or one "
        "checkpoint folder, an existing .gguf file, `smollm2` or `pocket`"
    )
