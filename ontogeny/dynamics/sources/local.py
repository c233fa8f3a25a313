"""Checkpoints in folders and files on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP, Checkpoint
from ontogeny.dynamics.loading.files import (
    CONFIG,
    TOKENIZER_FILES,
    WEIGHTS,
    file_names,
    read_arch,
    state_dict_names,
    weight_files,
    weight_patterns,
)
from ontogeny.dynamics.loading.local_listing import list_local
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.names import read_name
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAMED_STEP = re.compile(r"(?:step|checkpoint|iter)[-_]?(\d{1,18})(?![.\d])", re.IGNORECASE | re.ASCII)
_LAST_DIGITS = re.compile(r"(?<!\d)(\d{1,18})$", re.ASCII)


def open_local(folder: Path) -> Series:
    """The series in `folder`: the checkpoints among its subfolders and files, by step; else the one that it is itself.

    A subfolder's step stands in its name (`step1000`, `checkpoint-500`, `global_step500`, digits at the end), and so
    does that of a file with a state dict (`epoch=1-step=500.ckpt`, `step1000.pt`). A subfolder with weights but no
    config takes the one in `folder`, if none of the others describes another architecture; a subfolder that then still
    lacks something belongs to the series: loading it says what. Where `folder` is a checkpoint too, as a trainer
    leaves it, only names with a word for the step count. Files that state no step are left out with a note.

    Raises OntogenyError where there is no checkpoint, a step is not stated, or two checkpoints state the same.
    """
    folder = folder.resolve()
    try:
        names = file_names(folder)
        subfolders = sorted(entry for entry in _subfolders(folder) if _holds_checkpoint(entry))
    except OSError as error:
        raise OntogenyError(f"{folder} cannot be listed ({error}): make it readable, or name another folder") from error
    itself = _is_of_transformers(names)
    if itself:  # other models keep parts of themselves in subfolders
        subfolders = [entry for entry in subfolders if read_name(entry.name) or _NAMED_STEP.search(entry.name)]
    if weight_patterns(names):  # DeepSpeed keeps shards of the training's state in one
        subfolders = [entry for entry in subfolders if _is_of_transformers(file_names(entry))]
    loose = [folder / name for name in state_dict_names(names)]
    files = [file for file in loose if read_name(file.stem)]
    if subfolders or files:
        return _series(folder, _ordered(folder, subfolders, files), _left_out(names, files))
    if itself:
        step = read_name(folder.name)
        return _series(folder, [_Place(folder, UNKNOWN_STEP if step is None else step.step, folder / CONFIG)])
    raise OntogenyError(
        f"{folder} holds no checkpoint: expected {CONFIG} with model.safetensors in it, or in subfolders named by "
        f"their step, such as step1000, or {CONFIG} beside state dicts named by their step, such as step1000.pt"
    )


def open_file(file: Path) -> Series:
    """The checkpoint that one file with a state dict is; `config.json` lies beside it, or one folder further up.

    Raises OntogenyError where there is no config.
    """
    file = file.resolve()
    stated = read_name(file.stem) or read_name(file.parent.name)
    config = next((one for place in file.parents[:2] if (one := place / CONFIG).is_file()), file.parent / CONFIG)
    return _series(file, [_Place(file, UNKNOWN_STEP if stated is None else stated.step, config)])


@dataclass(frozen=True)
class _Place:
    """Where a checkpoint lies: a folder or a file, the step that its name states, and its config."""

    path: Path
    step: int
    config: Path

    @property
    def name(self) -> str:
        return self.path.name if self.path.is_dir() else self.path.stem

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def checkpoint(self) -> Checkpoint:
        files = [file for file in (self.config, *weight_files(self.path)) if file.is_file()]
        stated = read_name(self.name)
        return Checkpoint(
            name=self.name,
            step=self.step,
            fetch=lambda: self.path,
            tokens=None if stated is None else stated.tokens,
            modified=max((file.stat().st_mtime for file in files), default=None),
            config=self.config,
            listing=partial(list_local, self.path),
        )


def _series(source: Path, places: Sequence[_Place], notes: tuple[str, ...] = ()) -> Series:
    last = places[-1]
    configs = [place.config for place in places if place.config.is_file()]
    if not configs and last.path.is_file():
        raise OntogenyError(
            f"{last.path} has no {CONFIG} beside it, which says what model its weights are of: write one with "
            f"model.config.save_pretrained({str(last.folder)!r})"
        )
    return Series(
        source=str(source),
        name=source.name if source.is_dir() else source.stem,
        checkpoints=tuple(place.checkpoint() for place in places),
        arch=read_arch(configs[-1] if configs else last.config),
        tokenizer=partial(_tokenizer, (last.folder, last.config.parent, source if source.is_dir() else source.parent)),
        notes=notes,
    )


def _subfolders(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _holds_checkpoint(folder: Path) -> bool:
    names = file_names(folder)
    return _is_of_transformers(names) or bool(read_name(folder.name) and state_dict_names(names))


def _is_of_transformers(names: set[str]) -> bool:
    return CONFIG in names or bool(weight_patterns(names))


def _ordered(folder: Path, subfolders: list[Path], files: list[Path]) -> list[_Place]:
    fallback = _fallback_config(folder, subfolders)
    by_step: dict[int, _Place] = {}
    for path in (*subfolders, *files):
        own = path / CONFIG if path.is_dir() else folder / CONFIG
        place = _Place(path, _step(folder, path), own if own.is_file() or fallback is None else fallback)
        if place.step in by_step:
            raise OntogenyError(
                f"{by_step[place.step].path.name} and {path.name} in {folder} both state step {place.step}: expected "
                "one checkpoint a step; rename one or move it out"
            )
        by_step[place.step] = place
    return [by_step[step] for step in sorted(by_step)]


def _step(folder: Path, path: Path) -> int:
    stated = read_name(path.name if path.is_dir() else path.stem)
    if stated is not None:
        return stated.step
    match = _NAMED_STEP.search(path.name) or _LAST_DIGITS.search(path.name)
    if match is None:
        raise OntogenyError(
            f"{path} holds a checkpoint but its name states no step: expected a name such as step1000; rename it "
            f"or move it out of {folder.name}"
        )
    return int(match[1])


def _fallback_config(folder: Path, subfolders: list[Path]) -> Path | None:
    """The config in `folder`, for subfolders that lack one; None where there is none, or another disagrees with it."""
    config = folder / CONFIG
    others = [own for entry in subfolders if (own := entry / CONFIG).is_file()]
    if not config.is_file() or len(others) == len(subfolders):
        return None
    arch = read_arch(config)
    return config if all(read_arch(other) == arch for other in others) else None


def _left_out(names: set[str], files: list[Path]) -> tuple[str, ...]:
    """A note on the weights beside those that state a step; nothing where no file states one."""
    if not files:
        return ()
    used = {file.name for file in files}
    rest = [name for name in sorted({*state_dict_names(names), *(names & set(WEIGHTS))}) if name not in used]
    return (f"left out, as their names state no step: {', '.join(rest)}",) if rest else ()


def _tokenizer(places: tuple[Path, ...]) -> PreTrainedTokenizerBase | None:
    """The tokenizer in the first of `places` that has files of one."""
    from ontogeny.dynamics.loading.tokenizer import folder_tokenizer

    found = next((place for place in places if file_names(place).intersection(TOKENIZER_FILES)), None)
    return None if found is None else folder_tokenizer(found)
