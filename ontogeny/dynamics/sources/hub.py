"""Checkpoints that are revisions of a repository on the Hugging Face Hub, or folders in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP, Checkpoint
from ontogeny.dynamics.loading.files import CONFIG, read_arch, weight_patterns
from ontogeny.dynamics.loading.repository import RemoteFile, Repository
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.names import Stated, read_name
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAIN = "main"


def open_hub(
    repository: str, part: str | None = None, endpoint: str | None = None, cache_dir: Path | None = None
) -> Series:
    """The series of a Hub repository: its revisions that state a step, else the folders of `main` that do, else `main`.

    Revisions may belong to several runs (`stage1-step1000`, `stage2-step1000`): the series is the run of most
    checkpoints, and a note names the others. `part` is one of those, or one revision. With HF_HUB_OFFLINE set, the
    revisions are those in the local cache. `endpoint` and `cache_dir` are the Hub client's own by default.

    Raises OntogenyError where the repository cannot be reached or holds no model, UsageError for an unknown `part`.
    """
    hub = Repository(repository, endpoint, cache_dir)
    places, notes = _chosen(repository, part, _revisions(hub) or _folders(hub))
    last, main = places[-1], _Place(Stated(UNKNOWN_STEP), _MAIN)
    return Series(
        source=repository if part is None else f"{repository}@{part}",
        name="-".join(filter(None, [repository.split("/")[-1], part])),
        checkpoints=tuple(place.checkpoint(hub) for place in places),
        arch=read_arch(hub.config(last.revision, last.folder)),
        tokenizer=partial(_tokenizer, hub, last),
        default_steps="log",
        notes=notes,
        main=None if main in places else main.checkpoint(hub),
    )


@dataclass(frozen=True)
class _Place:
    """Where a checkpoint lies, and what its name states."""

    stated: Stated
    revision: str
    folder: str = ""

    @property
    def name(self) -> str:
        """What the checkpoint is called: by its folder's own name, without those of the folders around it."""
        return self.folder.rpartition("/")[2] or self.revision

    def checkpoint(self, hub: Repository) -> Checkpoint:
        return Checkpoint(
            name=self.name,
            step=self.stated.step,
            fetch=partial(hub.fetch, self.revision, self.folder),
            revision=self.revision,
            tokens=self.stated.tokens,
            release=partial(hub.release, self.revision, self.folder),
            listing=partial(_weights, hub, self.revision, self.folder),
        )


def _weights(hub: Repository, revision: str, folder: str) -> Mapping[str, RemoteFile]:
    """The weight files of a revision, or of a folder in it, by name, out of its listing."""
    prefix = f"{folder}/" if folder else ""
    tree = hub.tree(revision)
    inside = {path.removeprefix(prefix): file for path, file in tree.items() if path.startswith(prefix)}
    patterns = weight_patterns(inside)
    return {name: file for name, file in inside.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _revisions(hub: Repository) -> list[_Place]:
    return [_Place(stated, name) for name in hub.refs() if (stated := read_name(name))]


def _folders(hub: Repository) -> list[_Place]:
    inside: dict[str, set[str]] = {}
    for path in hub.all_files(_MAIN):
        folder, _, name = path.rpartition("/")
        inside.setdefault(folder, set()).add(name)
    models = [folder for folder, names in sorted(inside.items()) if CONFIG in names and weight_patterns(names)]
    return [_Place(stated, _MAIN, folder) for folder in models if (stated := _read_path(folder))]


def _read_path(folder: str) -> Stated | None:
    """What the last name in a path states; the folders around it are a run: `seed1` in `seed1/step1000`."""
    around, _, name = folder.rpartition("/")
    stated = read_name(name)
    return stated and replace(stated, run="/".join(filter(None, (around, stated.run))))


def _chosen(repository: str, part: str | None, places: list[_Place]) -> tuple[list[_Place], tuple[str, ...]]:
    """The places of one run, a step each, in order; and a note on the other runs."""
    runs: dict[str, dict[int, _Place]] = {}
    for place in places:  # of two that state the same the later one, which is a branch
        runs.setdefault(place.stated.run, {})[place.stated.step] = place
    if part is not None and part not in runs:
        exact = [place for place in places if part in (place.revision, place.folder)]
        if exact or part == _MAIN:
            return exact[:1] or [_Place(Stated(UNKNOWN_STEP), _MAIN)], ()
        one = next((place.folder or place.revision for place in places), _MAIN)
        expected = " or ".join(filter(None, [_listed(runs), f"one checkpoint, such as @{one}"]))
        raise UsageError(f"{repository} has no run and no revision {part!r}: expected {expected}")
    if not runs:
        return [_Place(Stated(UNKNOWN_STEP), _MAIN)], ()
    run = max(runs, key=lambda name: len(runs[name])) if part is None else part
    chosen = [runs[run][step] for step in sorted(runs[run])]
    others = {name: found for name, found in runs.items() if name != run}
    if part is not None or not others:
        return chosen, ()
    this = f"run {run!r}" if run else "the steps of no named run"
    return chosen, (f"{repository} holds several runs, this is {this}; others: {_listed(others)}",)


def _listed(runs: dict[str, dict[int, _Place]]) -> str:
    return ", ".join(f"@{name} ({len(found)} checkpoints)" for name, found in sorted(runs.items()) if name)


def _tokenizer(hub: Repository, last: _Place) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the last checkpoint, else that of its revision, else that of `main`."""
    from ontogeny.dynamics.loading.tokenizer import folder_tokenizer

    places: Iterable[tuple[str, str]] = ((last.revision, last.folder), (last.revision, ""), (_MAIN, ""))
    found = next((folder for place in dict.fromkeys(places) if (folder := hub.fetch_tokenizer(*place))), None)
    return None if found is None else folder_tokenizer(found)
