"""Checkpoints that are revisions of a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.checkpoint import UNKNOWN_STEP, Checkpoint
from ontogeny.dynamics.loading.files import CONFIG, TOKENIZER_FILES, WEIGHTS, file_names, read_arch, weight_patterns
from ontogeny.dynamics.series import Series
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STEP = re.compile(r"step(\d+)")
_MAIN = "main"
_SMALL_FILES = (CONFIG, "generation_config.json", *TOKENIZER_FILES)


def open_hub(repository: str, endpoint: str | None = None, cache_dir: Path | None = None) -> Series:
    """The series of a Hub repository's revisions named `step<N>`, or its `main` revision alone where it has none.

    With HF_HUB_OFFLINE set, the revisions are those in the local cache. `endpoint` and `cache_dir` are the Hub
    client's own by default. Raises OntogenyError where the repository cannot be reached or holds no model.
    """
    hub = _Repository(repository, endpoint, cache_dir)
    steps = hub.step_revisions()
    revisions = [(step, steps[step]) for step in sorted(steps)] or [(UNKNOWN_STEP, _MAIN)]
    last = revisions[-1][1]
    return Series(
        source=repository,
        name=repository.split("/")[-1],
        checkpoints=tuple(
            Checkpoint(name=revision, step=step, fetch=partial(hub.fetch, revision), revision=revision)
            for step, revision in revisions
        ),
        arch=hub.arch(last),
        tokenizer=partial(hub.tokenizer, last),
        default_steps="log",
    )


@dataclass(frozen=True)
class _Repository:
    """One model repository, and where its files are kept."""

    id: str
    endpoint: str | None
    cache_dir: Path | None

    def step_revisions(self) -> dict[int, str]:
        """Step -> revision. Where a tag and a branch state the same step it is the branch."""
        from huggingface_hub import HfApi, constants

        if constants.is_offline_mode():
            return _steps(self._cached_refs())
        with self._asking():
            refs = HfApi(endpoint=self.endpoint).list_repo_refs(self.id)
        return _steps(ref.name for ref in refs.tags) | _steps(ref.name for ref in refs.branches)

    def arch(self, revision: str) -> ArchSpec:
        """The architecture that the revision's config states."""
        from huggingface_hub import hf_hub_download

        with self._asking():
            config = hf_hub_download(
                self.id, CONFIG, revision=revision, endpoint=self.endpoint, cache_dir=self.cache_dir
            )
        return read_arch(Path(config))

    def fetch(self, revision: str) -> Path:
        """The folder with a revision's config, tokenizer and weights, downloaded where they are not there yet."""
        from huggingface_hub import constants

        files = self._files(revision)
        weights = weight_patterns(files)
        if not weights and constants.is_offline_mode():
            raise OntogenyError(_not_cached(f"revision {revision} of {self.id}"))
        if not weights:
            raise OntogenyError(
                f"revision {revision} of {self.id} has no weights that transformers reads: expected one of "
                f"{', '.join(WEIGHTS)}; leave this step out"
            )
        return self._download(revision, files, (*_SMALL_FILES, *weights))

    def tokenizer(self, revision: str) -> PreTrainedTokenizerBase | None:
        """The revision's tokenizer, else that of `main`, loaded from local files."""
        from ontogeny.dynamics.loading.tokenizer import folder_tokenizer

        for place in dict.fromkeys((revision, _MAIN)):
            files = self._files(place)
            if not set(files).isdisjoint(TOKENIZER_FILES):
                return folder_tokenizer(self._download(place, files, _SMALL_FILES))
        return None

    def _files(self, revision: str) -> Collection[str]:
        """The names of a revision's files: at the Hub, or offline in the cache."""
        from huggingface_hub import HfApi, constants

        if constants.is_offline_mode():
            return file_names(self._snapshot(revision, _SMALL_FILES))
        with self._asking():
            return HfApi(endpoint=self.endpoint).list_repo_files(self.id, revision=revision)

    def _download(self, revision: str, files: Collection[str], patterns: tuple[str, ...]) -> Path:
        """Those of `files` that match `patterns`, all of them: the client alone may pass off a part as the whole."""
        wanted = [name for name in files if any(fnmatchcase(name, pattern) for pattern in patterns)]
        folder = self._snapshot(revision, wanted)
        lost = [name for name in wanted if not (folder / name).is_file()]
        if lost:
            raise OntogenyError(f"{self.id} lost {lost[0]} of {revision} on the way: check the network and try again")
        return folder

    def _snapshot(self, revision: str, patterns: Collection[str]) -> Path:
        from huggingface_hub import snapshot_download

        with self._asking():
            folder = snapshot_download(
                self.id,
                revision=revision,
                allow_patterns=list(patterns),
                endpoint=self.endpoint,
                cache_dir=self.cache_dir,
            )
        return Path(folder)

    def _cached_refs(self) -> set[str]:
        """The branches and tags whose weights lie in the cache."""
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        try:
            repositories = scan_cache_dir(self.cache_dir).repos
        except CacheNotFound:
            return set()
        cached = (revision for found in repositories if found.repo_id == self.id for revision in found.revisions)
        return {
            ref
            for revision in cached
            if weight_patterns({file.file_name for file in revision.files})
            for ref in revision.refs
        }

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn whatever goes wrong between here and the Hub into one OntogenyError."""
        try:
            yield
        except Exception as error:
            raise OntogenyError(_explained(self.id, error)) from error


def _steps(names: Iterable[str]) -> dict[int, str]:
    return {int(match[1]): name for name in names if (match := _STEP.fullmatch(name))}


def _not_cached(what: str) -> str:
    return (
        f"{what} is not wholly in the local cache of the Hub, and HF_HUB_OFFLINE is set: unset it to download "
        "(or is a folder meant? there is none of that name here)"
    )


def _explained(repository: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    from ontogeny.dynamics.loading.quiet import reason

    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: ask for access on its page at the Hub, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return (
            f"there is no model repository {repository} on the Hub, nor a folder of that name: check the spelling, or "
            "log in with `hf auth login` if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"a revision of {repository} that was asked for is not on the Hub ({reason(error)}): leave its step out"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return (
            f"{repository} lacks a file that every model has ({reason(error)}): expected a model saved by transformers"
        )
    if constants.is_offline_mode():
        return _not_cached(repository)
    return (
        f"the Hub could not be asked for {repository}, which is no folder here ({reason(error)}): check the network "
        "and try again, or set HF_HUB_OFFLINE=1 to use what is in the local cache"
    )
