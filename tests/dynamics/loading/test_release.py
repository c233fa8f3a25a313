"""What a scan downloaded is removed again, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Event, Thread

import pytest
from huggingface_hub import file_download
from huggingface_hub.utils import _shared_blobs

from ontogeny.dynamics.keep import Keep
from ontogeny.dynamics.loading.repository import Repository
from ontogeny.dynamics.sources.hub import open_hub
from ontogeny.errors import OntogenyError
from tests.hub_server import Fault, Hub
from tests.hub_server import Repository as Remote
from tests.hub_steps import ID, SIZE, STEPS, WEIGHTS, blobs, step_files

NEIGHBOURS = 2


@pytest.fixture(params=["links", "no links"])
def kind_of_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With links from snapshots to blobs, and as on a system that has none."""
    if request.param == "no links":
        monkeypatch.setattr(file_download, "are_symlinks_supported", lambda _=None: False)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def fetched(repository: Repository, *revisions: str) -> list[Path]:
    return [repository.fetch(revision) / WEIGHTS for revision in revisions]


@pytest.mark.usefixtures("kind_of_cache")
@pytest.mark.parametrize(("policy", "kept"), [("none", 0), ("2", 2), ("all", 6)])
def test_what_stays_after_a_scan(hub: Hub, cache: Path, policy: str, kept: int) -> None:
    series = open_hub(ID, endpoint=hub.endpoint, cache_dir=cache)
    keep, sizes = Keep.parse(policy), []
    ahead = [one.fetch() for one in series.checkpoints[:1]]
    for index, checkpoint in enumerate(series.checkpoints):  # the next one is fetched while this one is measured
        ahead += [one.fetch() for one in series.checkpoints[index + 1 : index + NEIGHBOURS]]
        assert (checkpoint.fetch() / WEIGHTS).stat().st_size == SIZE
        sizes.append(size(cache))
        keep.done(checkpoint)
    small = size(cache) - kept * SIZE
    assert 0 < small < SIZE / 10
    assert max(sizes) <= min(kept + NEIGHBOURS, len(STEPS)) * SIZE + small
    there = [one.step for one, folder in zip(series.checkpoints, ahead, strict=True) if (folder / WEIGHTS).exists()]
    assert there == list(STEPS[len(STEPS) - kept :])
    assert all((folder / "config.json").is_file() and (folder / "tokenizer.json").is_file() for folder in ahead)


@pytest.mark.usefixtures("kind_of_cache")
def test_what_was_cached_before_stays(hub: Hub, cache: Path) -> None:
    fetched(Repository(ID, hub.endpoint, cache), "step1")
    scan = Repository(ID, hub.endpoint, cache)
    before, new = fetched(scan, "step1", "step2")
    scan.release("step1")
    scan.release("step2")
    assert (before.exists(), new.exists()) == (True, False)


def test_a_blob_that_was_cached_before_stays(hub: Hub, cache: Path, remote: Remote) -> None:
    """Without a snapshot that links to it, as where another tool was stopped midway."""
    fetched(Repository(ID, hub.endpoint, cache), "step1")
    shutil.rmtree(next(cache.rglob("snapshots")))
    scan = Repository(ID, hub.endpoint, cache)
    (file,) = fetched(scan, "step1")
    assert f"GET /{ID}/resolve/{remote.sha('step1')}/{WEIGHTS}" in hub.requests[:20]
    blob = file.resolve()
    scan.release("step1")
    assert (file.exists(), blob.exists()) == (False, True)


def test_weights_that_an_older_revision_shares_stay(hub: Hub, cache: Path, remote: Remote) -> None:
    remote.branches["twin"] = step_files(1) | {"config.json": b"{ }"}
    (before,) = fetched(Repository(ID, hub.endpoint, cache), "twin")
    scan = Repository(ID, hub.endpoint, cache)
    (file,) = fetched(scan, "step1")
    assert file.resolve() == before.resolve()
    scan.release("step1")
    assert (file.exists(), before.read_bytes()) == (False, remote.branches["twin"][WEIGHTS])


def test_weights_that_another_process_has_come_to_share_stay(hub: Hub, cache: Path, remote: Remote) -> None:
    remote.branches["twin"] = step_files(1) | {"config.json": b"{ }"}
    scan = Repository(ID, hub.endpoint, cache)
    (file,) = fetched(scan, "step1")
    (theirs,) = fetched(Repository(ID, hub.endpoint, cache), "twin")
    scan.release("step1")
    assert (file.exists(), theirs.read_bytes()) == (False, remote.branches["twin"][WEIGHTS])


@pytest.mark.usefixtures("kind_of_cache")
def test_what_is_in_the_cache_needs_no_room(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fetched(Repository(ID, hub.endpoint, cache), "step1")
    monkeypatch.setattr("ontogeny.dynamics.loading.disk_space.MARGIN", 10**18)
    assert fetched(Repository(ID, hub.endpoint, cache), "step1") == before


@pytest.mark.usefixtures("kind_of_cache")
@pytest.mark.parametrize("order", [("step1", "twin"), ("twin", "step1")])
@pytest.mark.parametrize("same", ["weights", "commit"])
def test_of_two_that_share_weights_the_second_still_works(
    hub: Hub, cache: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str], same: str
) -> None:
    remote.branches["twin"] = remote.branches["step1"] if same == "commit" else step_files(1) | {"config.json": b"{ }"}
    scan = Repository(ID, hub.endpoint, cache)
    if same == "commit":
        monkeypatch.setattr(scan, "_commits", dict.fromkeys(("step1", "twin"), remote.sha("step1")))
    files = fetched(scan, *order)
    scan.release(order[0])
    assert files[1].read_bytes() == remote.branches["step1"][WEIGHTS]
    scan.release(order[1])
    assert not files[1].exists()
    assert size(cache) < SIZE / 10
    assert fetched(scan, order[0])[0].read_bytes() == remote.branches["step1"][WEIGHTS]


def test_a_release_spares_what_another_thread_is_about_to_link_to(
    hub: Hub, cache: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.branches["twin"] = step_files(1) | {"config.json": b"{ }"}
    scan = Repository(ID, hub.endpoint, cache)
    fetched(scan, "step1")
    seen, released = Event(), Event()
    link = file_download._create_symlink

    def slow(src: str, dst: str, new_blob: bool = False) -> None:
        if dst.endswith(WEIGHTS):
            seen.set()
            assert released.wait(10)
        link(src, dst, new_blob)

    monkeypatch.setattr(file_download, "_create_symlink", slow)
    places: list[Path] = []
    thread = Thread(target=lambda: places.extend(fetched(scan, "twin")))
    thread.start()
    assert seen.wait(10)
    scan.release("step1")
    released.set()
    thread.join(10)
    assert places[0].read_bytes() == remote.branches["twin"][WEIGHTS]


@pytest.mark.usefixtures("kind_of_cache")
def test_folders_of_main_are_released_one_by_one(hub: Hub, cache: Path, remote: Remote) -> None:
    remote.branches = {
        "main": {f"checkpoint-{step}/{name}": data for step in STEPS for name, data in step_files(step).items()}
    }
    series = open_hub(ID, endpoint=hub.endpoint, cache_dir=cache)
    folders = [checkpoint.fetch() for checkpoint in series.checkpoints]
    assert series.checkpoints[1].release is not None
    series.checkpoints[1].release()
    assert [(folder / WEIGHTS).exists() for folder in folders] == [True, False, True, True, True, True]
    assert (folders[1] / "config.json").is_file()
    assert len(hub.listings()) == 1


@pytest.mark.parametrize("fault", ["damaged", "busy"])
def test_what_came_of_a_checkpoint_that_failed_goes_too(
    repository: Repository, hub: Hub, cache: Path, remote: Remote, fault: str
) -> None:
    first, second = (f"model-0000{index}-of-00002.safetensors" for index in (1, 2))
    shards = {first: b"a" * SIZE, second: b"b" * SIZE, "model.safetensors.index.json": b"{}"}
    remote.branches["step1"] = {"config.json": b"{}"} | shards
    where = f"GET /{ID}/resolve/{remote.sha('step1')}/{second}"
    hub.faults = [Fault(where, None, 2, body="flipped") if fault == "damaged" else Fault(where, 503, 6)]
    with pytest.raises(OntogenyError):
        repository.fetch("step1")
    assert size(cache) > SIZE
    repository.release("step1")
    assert size(cache) < SIZE / 10


def test_a_release_of_nothing(repository: Repository, cache: Path) -> None:
    repository.release("step1")
    file = repository.fetch("step1") / WEIGHTS
    for _ in range(2):
        repository.release("step1")
    assert not file.exists()


def test_offline_nothing_is_removed(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = fetched(Repository(ID, hub.endpoint, cache), "step1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    later = Repository(ID, hub.endpoint, cache)
    assert fetched(later, "step1") == [file]
    later.release("step1")
    assert file.exists()


def test_a_file_that_cannot_be_removed(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository.fetch("step1") / WEIGHTS

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OntogenyError, match=rf"{file}, .*cannot be removed \(Permission denied\): remove it by hand"):
        repository.release("step1")


def test_a_cache_that_cannot_be_written_to_does_for_what_is_in_it(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = fetched(Repository(ID, hub.endpoint, cache), "step1")
    for ref in cache.rglob("refs/*"):
        ref.unlink()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    assert fetched(Repository(ID, hub.endpoint, cache), "step1") == [file]


def shared(cache: Path, file: Path) -> Path:
    """Move a file's blob into the store that repositories share, as the client does with what comes by Xet."""
    blob = file.parent / file.readlink()
    stored = "0" * 63 + "1"
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(blob.resolve()), xet_hash=stored, cache_dir=cache, expected_size=SIZE
    )
    return cache / "blobs" / stored[:2] / stored


def test_the_store_that_repositories_share_is_emptied_too(repository: Repository, cache: Path) -> None:
    file = repository.fetch("step1") / WEIGHTS
    stored = shared(cache, file)
    assert file.resolve() == stored
    repository.release("step1")
    assert not stored.exists()


def test_offline_a_shared_blob_is_listed_by_its_own_hash(
    repository: Repository, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = repository.tree("step1")
    shared(cache, repository.fetch("step1") / WEIGHTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Repository(ID, hub.endpoint, cache).tree("step1") == due


def test_offline_files_without_links_are_listed_by_their_hash(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda _=None: False)
    repository = Repository(ID, hub.endpoint, cache)
    due = repository.tree("step1")[WEIGHTS]
    repository.fetch("step1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Repository(ID, hub.endpoint, cache).tree("step1")[WEIGHTS] == due


def test_a_repository_that_shares_the_store_keeps_its_weights(
    repository: Repository, hub: Hub, cache: Path, remote: Remote
) -> None:
    other = Repository("owner/other", hub.endpoint, cache)
    hub.repositories["owner/other"] = remote
    kept = other.fetch("step1") / WEIGHTS
    stored = shared(cache, kept)
    file = repository.fetch("step1") / WEIGHTS
    assert shared(cache, file) == stored
    repository.release("step1")
    assert not file.exists()
    assert kept.read_bytes() == remote.branches["step1"][WEIGHTS]
    assert blobs(cache)
