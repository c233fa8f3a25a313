"""The files of a repository on the Hugging Face Hub, made local."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.loading.files import CONFIG, TOKENIZER_FILES, WEIGHTS, weight_patterns
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_SMALL_FILES = (CONFIG, "generation_config.json", *TOKENIZER_FILES)


@dataclass(frozen=True)
class RemoteFile:
    """What a listing says of a file: its size in bytes, and the hash of its contents.

    `digest` is the sha256 of a large file (64 hexadecimal digits), as weights are, and git's blob hash (40) of others.
    """

    size: int
    digest: str


@dataclass(frozen=True)
class Repository:
    """One model repository, and where its files are kept."""

    id: str
    endpoint: str | None
    cache_dir: Path | None

    def refs(self) -> tuple[str, ...]:
        """The names of its tags and branches, each once, branches last; offline those whose weights are cached."""
        from huggingface_hub import HfApi, constants

        if constants.is_offline_mode():
            return tuple(sorted(self._cached_refs()))
        with self._asking():
            refs = HfApi(endpoint=self.endpoint).list_repo_refs(self.id)
        branches = [ref.name for ref in refs.branches]
        return (*(ref.name for ref in refs.tags if ref.name not in branches), *branches)

    def config(self, revision: str, folder: str = "") -> Path:
        """The `config.json` of a revision, or of a folder in it, downloaded."""
        from huggingface_hub import hf_hub_download

        with self._asking():
            path = hf_hub_download(
                self.id,
                CONFIG,
                subfolder=folder or None,
                revision=revision,
                endpoint=self.endpoint,
                cache_dir=self.cache_dir,
            )
        return Path(path)

    def fetch(self, revision: str, folder: str = "") -> Path:
        """The folder with config, tokenizer and weights of a revision, or of a folder in it, downloaded if need be."""
        from huggingface_hub import constants

        files = self.files(revision, folder)
        weights = weight_patterns(files)
        if not weights and constants.is_offline_mode():
            raise OntogenyError(_not_cached(f"revision {revision} of {self.id}"))
        if not weights:
            raise OntogenyError(
                f"{folder or f'revision {revision}'} of {self.id} has no weights that transformers reads: expected one "
                f"of {', '.join(WEIGHTS)}; leave this step out"
            )
        return self._download(revision, folder, files, (*_SMALL_FILES, *weights))

    def fetch_tokenizer(self, revision: str, folder: str = "") -> Path | None:
        """The folder with the tokenizer that is there, downloaded; None where there is none."""
        files = self.files(revision, folder)
        if set(files).isdisjoint(TOKENIZER_FILES):
            return None
        return self._download(revision, folder, files, _SMALL_FILES)

    def files(self, revision: str, folder: str = "") -> Collection[str]:
        """The names of the files directly in a revision, or in a folder in it: at the Hub, or offline in the cache."""
        prefix = f"{folder}/" if folder else ""
        inside = (name.removeprefix(prefix) for name in self.all_files(revision) if name.startswith(prefix))
        return {name for name in inside if "/" not in name}

    def all_files(self, revision: str) -> Collection[str]:
        """The paths of all files of a revision: at the Hub, or offline in the cache."""
        return self.tree(revision).keys()

    def tree(self, revision: str) -> dict[str, RemoteFile]:
        """All files of a revision by path: one listing of the Hub, or offline what lies in the cache."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.hf_api import RepoFile

        if constants.is_offline_mode():
            folder = self._snapshot(revision, _SMALL_FILES)
            return {str(path.relative_to(folder)): _cached(path) for path in folder.rglob("*") if path.is_file()}
        with self._asking():
            entries = HfApi(endpoint=self.endpoint).list_repo_tree(self.id, revision=revision, recursive=True)
            return {entry.path: _listed(entry) for entry in entries if isinstance(entry, RepoFile)}

    def _download(self, revision: str, folder: str, files: Collection[str], patterns: tuple[str, ...]) -> Path:
        """Those of `files` that match `patterns`, all of them: the client alone may pass off a part as the whole."""
        wanted = [name for name in files if any(fnmatchcase(name, pattern) for pattern in patterns)]
        place = self._snapshot(revision, [f"{folder}/{name}" if folder else name for name in wanted]) / folder
        lost = [name for name in wanted if not (place / name).is_file()]
        if lost:
            raise OntogenyError(f"{self.id} lost {lost[0]} of {revision} on the way: check the network and try again")
        return place

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


def _listed(entry: RepoFile) -> RemoteFile:
    return RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)


def _cached(path: Path) -> RemoteFile:
    """A file of the cache: it is a link to a blob, which is named after its contents' hash."""
    return RemoteFile(path.stat().st_size, path.resolve().name)


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
