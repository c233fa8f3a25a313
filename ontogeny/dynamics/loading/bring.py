"""One file from the Hub into the cache, whole and as it was announced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.loading.contents import has_digest
from ontogeny.dynamics.loading.disk_space import full_disk
from ontogeny.dynamics.loading.hub_cache import HubCache
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from ontogeny.dynamics.loading.repository import RemoteFile

_ATTEMPTS = 2


def bring(cache: HubCache, commit: str, path: str, file: RemoteFile, download: Callable[[], object], of: str) -> None:
    """See that the file at `path` of a commit is in the cache, by `download` where it is not.

    What is downloaded must have the announced hash, and is downloaded once more where it has not; for what was in the
    cache before, the size must do. One thread at a time brings the same contents. `of` names the revision in errors.

    Raises OntogenyError where the file does not come, comes damaged, fills the disk, or is damaged in the cache.
    """
    with cache.turn(file.digest):
        place = cache.snapshot(commit) / path
        if place.is_file():
            _refuse_other_size(place, file)
            return
        cache.drop_abandoned(file.digest)
        for _ in range(_ATTEMPTS):
            if _came_well(cache, place, file, download, of):
                return
            cache.drop(place)
    raise OntogenyError(
        f"{path} of {of} came damaged {_ATTEMPTS} times: its contents have another hash than the Hub states. Nothing "
        "of it was kept: try again later, or leave this step out"
    )


def _came_well(cache: HubCache, place: Path, file: RemoteFile, download: Callable[[], object], of: str) -> bool:
    before = cache.blobs()
    try:
        download()
    except OntogenyError as error:
        if (full := full_disk(cache.root, error.__cause__, f"{place.name} of {of}")) is None:
            raise
        cache.drop_partial(file.digest)
        raise full from error.__cause__
    if not place.is_file():
        raise OntogenyError(f"{place.name} of {of} got lost on the way: check the network and try again")
    if cache.note(place, before):
        return has_digest(place, file.digest)
    _refuse_other_size(place, file)
    return True


def _refuse_other_size(place: Path, file: RemoteFile) -> None:
    size = place.stat().st_size
    if size != file.size:
        raise OntogenyError(
            f"{place} has {size} bytes in the cache of the Hub, and the Hub states {file.size}: remove "
            f"{place.resolve()} and scan again to download it anew"
        )
