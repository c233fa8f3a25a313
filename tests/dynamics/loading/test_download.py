"""Files on their way from the Hub into the cache: whole, of one commit, and where there is room for them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from huggingface_hub import file_download

from ontogeny.dynamics.loading.contents import has_digest
from ontogeny.dynamics.loading.repository import Repository
from ontogeny.errors import OntogenyError
from tests.hub_server import Fault, Hub
from tests.hub_server import Repository as Remote
from tests.hub_steps import ID, SIZE, WEIGHTS, blobs, step_files

CONTENTS = f"/{WEIGHTS}"
Usage = namedtuple("Usage", "total used free")


def weights_of(remote: Remote, revision: str) -> bytes:
    return remote.branches[revision][WEIGHTS]


def leave_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, free))


def test_a_damaged_file_is_downloaded_once_more(repository: Repository, hub: Hub, remote: Remote) -> None:
    hub.faults = [Fault(f"GET /{ID}/resolve/{remote.sha('step1')}{CONTENTS}", None, body="flipped")]
    folder = repository.fetch("step1")
    assert (folder / WEIGHTS).read_bytes() == weights_of(remote, "step1")
    assert len([one for one in hub.requests if one.startswith("GET") and one.endswith(CONTENTS)]) == 2


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_stays_damaged_is_refused_and_not_kept(
    repository: Repository, hub: Hub, cache: Path, remote: Remote, name: str
) -> None:
    hub.faults = [Fault(f"GET /{ID}/resolve/{remote.sha('step1')}/{name}", None, times=2, body="flipped")]
    with pytest.raises(OntogenyError, match=rf"{name} of step1 of {ID} came damaged 2 times.*leave this step out"):
        repository.fetch("step1")
    announced = repository.tree("step1")[name].digest
    assert announced not in blobs(cache)
    assert not list(cache.rglob(f"snapshots/*/{name}"))
    assert (repository.fetch("step1") / name).read_bytes() == remote.branches["step1"][name]


def test_only_what_was_downloaded_is_hashed(
    repository: Repository, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counted(file: Path, digest: str) -> bool:
        hashed.append(file.name)
        return has_digest(file, digest)

    monkeypatch.setattr("ontogeny.dynamics.loading.bring.has_digest", counted)
    repository.fetch("step1")
    assert sorted(hashed) == ["config.json", WEIGHTS, "tokenizer.json"]
    repository.fetch("step1")
    Repository(ID, hub.endpoint, cache).fetch("step1")
    assert len(hashed) == 3
    repository.fetch("step2")
    assert sorted(hashed[3:]) == ["config.json", WEIGHTS]


def test_a_cached_file_of_another_size_is_refused_and_left_alone(repository: Repository, hub: Hub, cache: Path) -> None:
    file = repository.fetch("step1") / WEIGHTS
    file.write_bytes(b"half")
    later = Repository(ID, hub.endpoint, cache)
    with pytest.raises(OntogenyError, match=rf"{WEIGHTS} has 4 bytes in the cache.*states {SIZE}: remove .*blobs/"):
        later.fetch("step1")
    later.release("step1")
    assert file.read_bytes() == b"half"


def test_nobody_is_given_what_is_still_being_checked(
    repository: Repository, hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = [Fault(f"GET /{ID}/resolve/{remote.sha('step1')}{CONTENTS}", None, body="flipped")]
    checking, given = Event(), Event()

    def slow(file: Path, digest: str) -> bool:
        if file.name == WEIGHTS:
            checking.set()
            given.wait(0.3)
        return has_digest(file, digest)

    monkeypatch.setattr("ontogeny.dynamics.loading.bring.has_digest", slow)

    def second() -> bytes:
        assert checking.wait(10)
        contents = (repository.fetch("step1") / WEIGHTS).read_bytes()
        given.set()
        return contents

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(second)
        repository.fetch("step1")
        assert other.result() == weights_of(remote, "step1")


def test_both_kinds_of_hash(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"hello\n")
    assert has_digest(file, hashlib.sha256(b"hello\n").hexdigest())
    assert has_digest(file, "ce013625030ba8dba906f756967f9e9ca394464a")  # git hash-object
    assert not has_digest(file, "0" * 64)
    assert not has_digest(file, "0" * 40)


def test_a_revision_that_moves_is_not_followed(repository: Repository, hub: Hub, remote: Remote) -> None:
    repository.refs()
    first = remote.branches["step1"]
    remote.tags["old"] = {}  # the commit itself goes on being there
    remote.revision = lambda name, find=remote.revision: first if name == pinned else find(name)  # type: ignore[method-assign]
    pinned = remote.sha("step1")
    remote.branches["step1"] = step_files(99)
    folder = repository.fetch("step1")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first
    assert folder.name == pinned
    assert hub.listings() == [f"GET /api/models/{ID}/tree/{pinned}"]


def test_a_revision_whose_commit_is_gone_fails(repository: Repository, remote: Remote) -> None:
    """Listed, then moved: never a mixture of the old listing with new files."""
    repository.refs()
    repository.tree("step1")
    remote.branches["step1"] = step_files(99)
    with pytest.raises(OntogenyError, match="not on the Hub"):
        repository.fetch("step1")


def test_a_file_that_disappears_after_the_listing(repository: Repository, hub: Hub, remote: Remote) -> None:
    repository.tree("step1")
    hub.faults = [Fault(CONTENTS, 404, headers={"X-Error-Code": "EntryNotFound"})]
    with pytest.raises(OntogenyError, match=f"{ID} lacks a file"):
        repository.fetch("step1")


def test_an_answer_of_another_commit_is_no_answer(
    repository: Repository, hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.tree("step1")
    monkeypatch.setattr(remote, "sha", lambda name: "f" * 40)
    with pytest.raises(OntogenyError, match=r"config\.json of step1 of .* got lost on the way"):
        repository.fetch("step1")


def test_a_tag_is_resolved_once(repository: Repository, hub: Hub, remote: Remote) -> None:
    remote.tags["v1"] = step_files(3)
    repository.refs()
    for _ in range(2):
        assert (repository.fetch("v1") / WEIGHTS).read_bytes() == step_files(3)[WEIGHTS]
    assert len([one for one in hub.requests if "/revision/" in one]) == 1


def test_a_fetch_makes_one_listing(repository: Repository, hub: Hub) -> None:
    repository.refs()
    repository.fetch("step1")
    repository.fetch_tokenizer("step1")
    repository.fetch("step1")
    assert len(hub.listings()) == 1
    assert not [one for one in hub.requests if "/revision/" in one]


def test_a_config_is_not_taken_on_trust(repository: Repository, hub: Hub, remote: Remote) -> None:
    hub.faults = [Fault(f"GET /{ID}/resolve", None, body="flipped")]
    assert repository.config("step1").read_bytes() == remote.branches["step1"]["config.json"]


def test_an_error_names_what_the_hub_said(repository: Repository, hub: Hub) -> None:
    repository.tree("step1")
    hub.faults = [Fault("HEAD", 451)]
    with pytest.raises(OntogenyError, match=r"HfHubHTTPError: .*451"):
        repository.fetch("step1")


@pytest.mark.parametrize("free", [0, SIZE, SIZE + 2**28 - 1])
def test_a_disk_without_room_is_not_filled(
    repository: Repository, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    leave_free(monkeypatch, free)
    with pytest.raises(OntogenyError, match=rf"step1 of {ID} takes 100 kB.* free at {cache}.*--keep none.*HF_HOME"):
        repository.fetch("step1")
    assert hub.downloaded() == set()


def test_what_is_cached_needs_no_room(repository: Repository, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[ID].branches["twin"] = step_files(1) | {"config.json": b"{ }"}
    repository.fetch("step1")
    leave_free(monkeypatch, 0)
    repository.fetch("step1")
    leave_free(monkeypatch, 2**28 + 1000)
    repository.fetch("twin")  # the same weights
    with pytest.raises(OntogenyError, match="to download"):
        repository.fetch("step2")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile(
    repository: Repository, hub: Hub, cache: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The client of today removes what it has begun; those before it left it to go on from."""
    repository.fetch_tokenizer("step1")
    digest = repository.tree("step1")[WEIGHTS].digest
    begun = next(cache.rglob("blobs")) / f"{digest}.incomplete"

    def full(url: str, temp_file: object, **_: object) -> None:
        begun.write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", full)
        with pytest.raises(OntogenyError, match=rf"the disk filled up while {WEIGHTS} of step1 .*{cache}.*--keep none"):
            repository.fetch("step1")
    assert not [name for name in blobs(cache) if "incomplete" in name]
    assert (repository.fetch("step1") / WEIGHTS).read_bytes() == weights_of(remote, "step1")


def test_what_a_killed_process_left_is_removed(repository: Repository, cache: Path) -> None:
    repository.fetch_tokenizer("step1")
    digest = repository.tree("step1")[WEIGHTS].digest
    folder = next(cache.rglob("blobs"))
    abandoned, alive, other = (folder / f"{name}.incomplete" for name in (f"{digest}.0a", f"{digest}.0b", "ff.0c"))
    for file in (abandoned, alive, other):
        file.write_bytes(b"half")
    for file in (abandoned, other):
        os.utime(file, (time.time() - 3600, time.time() - 3600))
    repository.fetch("step1")
    assert (abandoned.exists(), alive.exists(), other.exists()) == (False, True, True)
