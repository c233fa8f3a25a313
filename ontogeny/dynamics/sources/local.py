"""Checkpoints in folders on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP, Checkpoint
from ontogeny.dynamics.loading.files import CONFIG, TOKENIZER_FILES, file_names, read_arch, weight_patterns
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.names import read_name
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAMED_STEP = re.compile(r"(?:step|checkpoint|iter)[-_]?(\d+)", re.IGNORECASE)
_LAST_DIGITS = re.compile(r"(\d+)$")


def open_local(folder: Path) -> Series:
    """The series in `folder`: its subfolders that hold a checkpoint, by step; without any, the checkpoint it is itself.

    A subfolder's step stands in its name (`step1000`, `checkpoint-500`, `global_step500`, digits at the end). A
    subfolder with weights but no config, or the reverse, belongs to the series: loading it says what it lacks.
    Where `folder` is a checkpoint too, as a trainer leaves it, only names with a word for the step count.
    Raises OntogenyError where there is no checkpoint, a step is not stated, or two folders state the same.
    """
    folder = folder.resolve()
    try:
        itself = _holds_checkpoint(folder)
        inside = sorted(entry for entry in _subfolders(folder) if _holds_checkpoint(entry))
    except OSError as error:
        raise OntogenyError(f"{folder} cannot be listed ({error}): make it readable, or name another folder") from error
    if itself:  # other models keep parts of themselves in subfolders
        inside = [entry for entry in inside if _NAMED_STEP.search(entry.name)]
    if inside:
        checkpoints = _ordered(folder, inside)
    elif itself:
        match = _NAMED_STEP.search(folder.name)
        checkpoints = (_checkpoint(folder, int(match[1]) if match else UNKNOWN_STEP),)
    else:
        raise OntogenyError(
            f"{folder} holds no checkpoint: expected {CONFIG} with model.safetensors in it, or in subfolders named by "
            "their step, such as step1000"
        )
    last = checkpoints[-1].fetch()
    configured = [place for checkpoint in checkpoints if CONFIG in file_names(place := checkpoint.fetch())]
    return Series(
        source=str(folder),
        name=folder.name,
        checkpoints=checkpoints,
        arch=read_arch((configured[-1] if configured else last) / CONFIG),
        tokenizer=partial(_tokenizer, (last, folder)),
    )


def _subfolders(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _holds_checkpoint(folder: Path) -> bool:
    names = file_names(folder)
    return CONFIG in names or bool(weight_patterns(names))


def _checkpoint(folder: Path, step: int) -> Checkpoint:
    patterns = (CONFIG, *weight_patterns(file_names(folder)))
    modified = max((file.stat().st_mtime for pattern in patterns for file in folder.glob(pattern)), default=None)
    stated = read_name(folder.name)
    return Checkpoint(
        name=folder.name,
        step=step,
        fetch=lambda: folder,
        tokens=None if stated is None else stated.tokens,
        modified=modified,
    )


def _ordered(folder: Path, inside: list[Path]) -> tuple[Checkpoint, ...]:
    by_step: dict[int, Path] = {}
    for entry in inside:
        match = _NAMED_STEP.search(entry.name) or _LAST_DIGITS.search(entry.name)
        if match is None:
            raise OntogenyError(
                f"{entry} holds a checkpoint but its name states no step: expected a name such as step1000; rename it "
                f"or move it out of {folder.name}"
            )
        step = int(match[1])
        if step in by_step:
            raise OntogenyError(
                f"{by_step[step].name} and {entry.name} in {folder} both state step {step}: expected one folder a "
                "step; rename one or move it out"
            )
        by_step[step] = entry
    return tuple(_checkpoint(by_step[step], step) for step in sorted(by_step))


def _tokenizer(places: tuple[Path, ...]) -> PreTrainedTokenizerBase | None:
    """The tokenizer in the first of `places` that has files of one."""
    from ontogeny.dynamics.loading.tokenizer import folder_tokenizer

    found = next((place for place in places if file_names(place).intersection(TOKENIZER_FILES)), None)
    return None if found is None else folder_tokenizer(found)
