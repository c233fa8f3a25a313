"""The small series that the package carries."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.local import open_local
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    import numpy as np


def open_pocket() -> Series:
    """The embedded series, measured on its own task. Raises OntogenyError where the installation lacks its files."""
    folder = pocket_folder()
    if not folder.is_dir():
        raise OntogenyError(f"the installed package lacks the pocket series at {folder}: install ontogeny again")
    return replace(open_local(folder), source="pocket", name="pocket", task=_task)


def pocket_folder() -> Path:
    """Where the embedded checkpoints lie."""
    return Path(str(files("ontogeny"))) / "data" / "pocket"


def _task(sequences: int, length: int) -> np.ndarray:
    from ontogeny.dynamics.backcopy import sample

    return sample(sequences, length)
