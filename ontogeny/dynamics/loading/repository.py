"""The files of a repository on the Hugging Face Hub, made local."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ontogeny.dynamics.loading.bring import bring
from ontogeny.dynamics.loading.contents import sha256_of
from ontogeny.dynamics.loading.disk_space import refuse_full_disk
from ontogeny.dynamics.loading.explained import explained, not_cached
from ontogeny.dynamics.loading.files import CONFIG, TOKENIZER_FILES, WEIGHTS, weight_patterns
from ontogeny.dynamics.loading.hub_cache import HubCache, blob_of
from ontogeny.dynamics.loading.retry import retried
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")

_SMALL_FILES = (CONFIG, "generation_config.json", *TOKENIZER_FILES)


@dataclass(frozen=True)
class RemoteFile:
    """What a listing says of a file: its size in bytes, and the hash of its contents.

    `digest` is the sha256 of a large file (64 hexadecimal digits), as weights are, and git's blob hash (40) of others.
    """

    size: int
    digest: str


class Repository:
    """One model repository as it was when it was first asked: a revision that moves later is not followed.

    Requests are repeated as `retried` says, and raise OntogenyError where they fail for good. Threads may share it.
    """

    def __init__(self, repository: str, endpoint: str | None = None, cache_dir: Path | None = None) -> None:
        self.id = repository
        self.endpoint = endpoint
        self.cache = HubCache(repository, cache_dir)
        self._commits: dict[str, str] = {}
        self._trees: dict[str, dict[str, RemoteFile]] = {}

    def refs(self) -> tuple[str, ...]:
        """The names of its tags and branches, each once, branches last; offline those whose weights are cached."""
        from huggingface_hub import HfApi, constants

        if constants.is_offline_mode():
            return tuple(sorted(self._cached_refs()))
        refs = self._asked(partial(HfApi(endpoint=self.endpoint).list_repo_refs, self.id))
        for branch in refs.branches:
            self._commits.setdefault(branch.name, branch.target_commit)
        branches = [ref.name for ref in refs.branches]
        return (*(ref.name for ref in refs.tags if ref.name not in branches), *branches)

    def commit(self, revision: str) -> str:
        """The commit that `revision` stands for; offline, where nothing moves, `revision` itself."""
        from huggingface_hub import HfApi, constants

        if revision not in self._commits and not constants.is_offline_mode():
            info = self._asked(partial(HfApi(endpoint=self.endpoint).model_info, self.id, revision=revision))
            self._commits.setdefault(revision, info.sha or revision)
        return self._commits.get(revision, revision)

    def config(self, revision: str, folder: str = "") -> Path:
        """The `config.json` of a revision, or of a folder in it, downloaded."""
        files = _matching(self._inside(revision, folder), (CONFIG,), folder)
        if not files:
            expected = f"lacks a file that every model has ({CONFIG}): expected a model saved by transformers"
            raise self._lacking(revision, folder, expected)
        return self._local(revision, folder, files) / CONFIG

    def fetch(self, revision: str, folder: str = "") -> Path:
        """The folder with config, tokenizer and weights of a revision, or of a folder in it, downloaded if need be.

        Contents that are downloaded are compared with the hash that was listed, and those of the cache with the size.
        """
        files = self._inside(revision, folder)
        weights = weight_patterns(files)
        if not weights:
            expected = (
                f"has no weights that transformers reads: expected one of {', '.join(WEIGHTS)}; leave this step out"
            )
            raise self._lacking(revision, folder, expected)
        self.cache.hold((revision, folder), self.commit(revision), _matching(files, weights, folder))
        return self._local(revision, folder, _matching(files, (*_SMALL_FILES, *weights), folder))

    def release(self, revision: str, folder: str = "") -> None:
        """Remove the weights that `fetch` itself downloaded, unless another checkpoint that was fetched shares them.

        What was in the cache before stays, and so do config and tokenizer. What an earlier process downloaded was there
        before: a scan that goes on after an interruption does not remove it.
        """
        self.cache.release((revision, folder))

    def fetch_tokenizer(self, revision: str, folder: str = "") -> Path | None:
        """The folder with the tokenizer that is there, downloaded; None where there is none."""
        files = self._inside(revision, folder)
        if set(files).isdisjoint(TOKENIZER_FILES):
            return None
        return self._local(revision, folder, _matching(files, _SMALL_FILES, folder))

    def all_files(self, revision: str) -> Collection[str]:
        """The paths of all files of a revision: at the Hub, or offline in the cache."""
        return self.tree(revision).keys()

    def tree(self, revision: str) -> Mapping[str, RemoteFile]:
        """All files of a revision by path: one listing of the Hub, made once, or offline what lies in the cache."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.hf_api import RepoFile

        commit = self.commit(revision)
        if commit not in self._trees and constants.is_offline_mode():
            folder = self._cached_snapshot(commit)
            return {path.relative_to(folder).as_posix(): _cached(path) for path in folder.rglob("*") if path.is_file()}
        if commit not in self._trees:
            api = HfApi(endpoint=self.endpoint)
            listing = partial(api.list_repo_tree, self.id, revision=commit, recursive=True)
            entries = self._asked(lambda: list(listing()))
            self._trees[commit] = {entry.path: _listed(entry) for entry in entries if isinstance(entry, RepoFile)}
        return self._trees[commit]

    def _inside(self, revision: str, folder: str) -> dict[str, RemoteFile]:
        """The files directly in a revision, or in a folder in it, by name."""
        prefix = f"{folder}/" if folder else ""
        inside = {
            path.removeprefix(prefix): file for path, file in self.tree(revision).items() if path.startswith(prefix)
        }
        return {name: file for name, file in inside.items() if "/" not in name}

    def _local(self, revision: str, folder: str, files: Mapping[str, RemoteFile]) -> Path:
        """The folder of one commit in which all of `files` are, by their paths in the repository."""
        from huggingface_hub import constants

        commit = self.commit(revision)
        if constants.is_offline_mode():
            snapshot = self._cached_snapshot(commit)
            if not all((snapshot / path).is_file() for path in files):
                raise OntogenyError(not_cached(f"revision {revision} of {self.id}"))
            return snapshot / folder
        what = f"{revision} of {self.id}"
        refuse_full_disk(self.cache.folder, self.cache.missing(commit, files), what)
        for path, file in files.items():
            bring(self.cache, commit, path, file, partial(self._downloaded, commit, path), what)
        self.cache.name(revision, commit)
        return self.cache.snapshot(commit) / folder

    def _lacking(self, revision: str, folder: str, sentence: str) -> OntogenyError:
        """What to say where `sentence` holds for a listing; offline, what is not cached may yet be at the Hub."""
        from huggingface_hub import constants

        if constants.is_offline_mode():
            return OntogenyError(not_cached(f"revision {revision} of {self.id}"))
        return OntogenyError(f"{folder or f'revision {revision}'} of {self.id} {sentence}")

    def _downloaded(self, commit: str, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        options = {"endpoint": self.endpoint, "cache_dir": self.cache.root}
        return Path(self._asked(partial(hf_hub_download, self.id, path, revision=commit, **options)))

    def _cached_snapshot(self, commit: str) -> Path:
        """The folder of a commit, or of a revision by its name, that is in the cache; offline."""
        from huggingface_hub import snapshot_download

        options = {"allow_patterns": list(_SMALL_FILES), "endpoint": self.endpoint, "cache_dir": self.cache.root}
        return Path(self._asked(partial(snapshot_download, self.id, revision=commit, **options)))

    def _cached_refs(self) -> set[str]:
        """The branches and tags whose weights lie in the cache."""
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        try:
            repositories = scan_cache_dir(self.cache.root).repos
        except CacheNotFound:
            return set()
        cached = (revision for found in repositories if found.repo_id == self.id for revision in found.revisions)
        return {
            ref
            for revision in cached
            if weight_patterns({file.file_name for file in revision.files})
            for ref in revision.refs
        }

    def _asked(self, request: Callable[[], T]) -> T:
        """What `request` returns; whatever goes wrong between here and the Hub becomes one OntogenyError."""
        try:
            return retried(request)
        except Exception as error:
            raise OntogenyError(explained(self.id, error)) from error


def _matching(files: Mapping[str, RemoteFile], patterns: Collection[str], folder: str) -> dict[str, RemoteFile]:
    """Those of a folder's files that match `patterns`, by their paths in the repository."""
    wanted = {name: file for name, file in files.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return {f"{folder}/{name}" if folder else name: file for name, file in wanted.items()}


def _listed(entry: RepoFile) -> RemoteFile:
    return RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)


def _cached(path: Path) -> RemoteFile:
    """A file of the cache: a link to a blob, which is named after its hash, or where there are no links the file."""
    blob = blob_of(path)
    return RemoteFile(path.stat().st_size, sha256_of(path) if blob is None else blob.name)
