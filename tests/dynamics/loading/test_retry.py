"""A Hub that is busy, slow, or goes away while it is asked."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub import HfApi, close_session, constants, get_session

from ontogeny.dynamics.loading import retry
from ontogeny.dynamics.loading.explained import explained
from ontogeny.dynamics.loading.repository import Repository
from ontogeny.errors import OntogenyError
from tests.hub_server import Fault, Hub
from tests.hub_server import Repository as Remote

PAUSES = [1, 2, 4, 8, 16]
REQUESTS = {"refs": "/refs", "tree": "/tree/", "file": "HEAD", "contents": "GET /owner/steps/resolve"}


def ask(repository: Repository, what: str) -> object:
    """Make the request that a fault is meant for, and those that come before it."""
    if what == "refs":
        return repository.refs()
    repository.refs()
    return repository.tree("step1") if what == "tree" else repository.fetch("step1")


@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
def test_a_busy_hub_is_asked_again(
    repository: Repository, hub: Hub, sleeps: list[float], what: str, status: int
) -> None:
    hub.faults = [Fault(REQUESTS[what], status, times=2)]
    ask(repository, what)
    assert sleeps == PAUSES[:2]


@pytest.mark.parametrize("what", REQUESTS)
def test_a_hub_that_stays_busy_is_given_up(repository: Repository, hub: Hub, sleeps: list[float], what: str) -> None:
    hub.faults = [Fault(REQUESTS[what], 503, times=1000)]
    with pytest.raises(OntogenyError, match=r"Hub could not be asked for owner/steps.*status 503.*try again"):
        ask(repository, what)
    assert sleeps == PAUSES
    assert len([one for one in hub.requests if REQUESTS[what] in one]) == 6


@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("form", ["seconds", "date", "RateLimit"])
def test_the_hub_says_how_long_to_wait(
    repository: Repository, hub: Hub, sleeps: list[float], what: str, form: str
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    headers = {
        "seconds": {"Retry-After": "100"},
        "date": {"Retry-After": date},
        "RateLimit": {"RateLimit": '"api";r=0;t=100'},
    }
    hub.faults = [Fault(REQUESTS[what], 429, headers=headers[form])]
    ask(repository, what)
    assert len(sleeps) == 1
    assert 95 <= sleeps[0] <= 100


def test_a_wait_in_the_past_or_unreadable_is_none(repository: Repository, hub: Hub, sleeps: list[float]) -> None:
    old = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    hub.faults = [
        Fault("/refs", 429, headers={"Retry-After": old}),
        Fault("/refs", 429, headers={"Retry-After": "soon"}),
    ]
    repository.refs()
    assert sleeps == PAUSES[:2]


def test_a_limit_that_is_not_used_up_is_no_reason_to_wait(
    repository: Repository, hub: Hub, sleeps: list[float]
) -> None:
    hub.faults = [
        Fault("/refs", 503, headers={"RateLimit": '"api";r=0;t=200'}),
        Fault("/refs", 429, headers={"RateLimit": '"api";r=10;t=200'}),
    ]
    repository.refs()
    assert sleeps == PAUSES[:2]


@pytest.mark.parametrize("what", REQUESTS)
def test_a_wait_beyond_patience_is_not_begun(repository: Repository, hub: Hub, sleeps: list[float], what: str) -> None:
    hub.faults = [Fault(REQUESTS[what], 429, times=1000, headers={"Retry-After": "3600"})]
    with pytest.raises(OntogenyError, match=r"status 429.*asks to wait 3600 s"):
        ask(repository, what)
    assert sleeps == []


def test_waits_that_were_asked_for_end_together(
    repository: Repository, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    hub.faults = [Fault("/refs", 429, times=1000, headers={"Retry-After": "150"})]
    with pytest.raises(OntogenyError, match="asks to wait 150 s"):
        repository.refs()
    assert clock[0] == 300
    hub.faults = [Fault("/refs", 429, times=1000, headers={"Retry-After": "20"})]
    with pytest.raises(OntogenyError, match="asks to wait 20 s"):
        repository.refs()
    assert clock[0] == 400


@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(
    repository: Repository, hub: Hub, sleeps: list[float], what: str, status: int
) -> None:
    hub.faults = [Fault(REQUESTS[what], status, times=1000)]
    with pytest.raises(OntogenyError):
        ask(repository, what)
    assert sleeps == []
    assert len([one for one in hub.requests if REQUESTS[what] in one]) == 1


def test_a_revision_that_does_not_exist_fails_at_once(repository: Repository, hub: Hub, sleeps: list[float]) -> None:
    repository.refs()
    with pytest.raises(OntogenyError, match=r"is not on the Hub .*leave its step out"):
        repository.fetch("step3")
    assert sleeps == []


@pytest.mark.parametrize("what", ["refs", "tree"])
def test_a_hub_that_never_answers_is_left_after_seconds(
    repository: Repository, hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(retry, "TIME_LIMIT", 0.1)
    hub.faults = [Fault(REQUESTS[what], None, delay=2.0)]
    start = time.perf_counter()
    ask(repository, what)
    assert time.perf_counter() - start < 1.5
    assert sleeps == [1]


def test_a_client_that_took_the_place_of_another_has_the_limits_too(
    repository: Repository, hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's client makes itself anew after a dead connection, in the middle of a request or in another thread."""
    refs = HfApi.list_repo_refs

    def anew(*arguments: object, **options: object) -> object:
        close_session()
        return refs(*arguments, **options)

    monkeypatch.setattr(HfApi, "list_repo_refs", anew)
    monkeypatch.setattr(retry, "TIME_LIMIT", 0.1)
    hub.faults = [Fault("/refs", None, delay=2.0)]
    start = time.perf_counter()
    repository.refs()
    assert time.perf_counter() - start < 1.5
    assert sleeps == [1]


def test_silence_is_borne_for_a_minute_in_all(
    repository: Repository, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself tries a listing several times, and waits in between: that counts too."""
    clock, asked = [0.0], []

    def listing(*_: object, **__: object) -> None:
        asked.append(clock[0])
        clock[0] += 25
        raise TimeoutError

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(HfApi, "list_repo_refs", listing)
    with pytest.raises(OntogenyError, match="TimeoutError"):
        repository.refs()
    assert asked == [0, 26, 53]


def test_a_download_that_breaks_off_late_is_tried_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is with silence: a file that came for an hour is no silence."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def download() -> float:
        get_session().get(f"{hub.endpoint}/api/models/owner/steps/refs")
        clock[0] += 3600
        if clock[0] < 10_000:
            raise ConnectionResetError
        return clock[0]

    assert retry.retried(download) == 3 * 3600


@pytest.mark.parametrize("spoiled", ["cut", "reset", "short"])
def test_a_file_that_breaks_off_comes_whole_in_the_end(
    repository: Repository, hub: Hub, sleeps: list[float], remote: Remote, spoiled: str
) -> None:
    hub.faults = [Fault("GET /owner/steps/resolve", None, body=spoiled)]
    folder = repository.fetch("step1")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == remote.branches["step1"]
    assert sleeps == [1]


def test_what_has_come_of_a_file_is_not_asked_for_again(
    repository: Repository, hub: Hub, sleeps: list[float], remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.faults = [Fault(f"GET /owner/steps/resolve/{remote.sha('step1')}/model.safetensors", None, body="cut")]
    folder = repository.fetch("step1")
    assert (folder / "model.safetensors").read_bytes() == remote.branches["step1"]["model.safetensors"]
    assert hub.ranges == ["bytes=50000-"]


def test_the_limits_are_set_on_our_requests_alone(repository: Repository, hub: Hub, sleeps: list[float]) -> None:
    repository.refs()
    hub.faults = [Fault("/api/other", 503)]
    assert get_session().get(f"{hub.endpoint}/api/other").status_code == 503
    request = get_session().build_request("GET", f"{hub.endpoint}/api/other", timeout=None)
    for hook in get_session().event_hooks["request"]:
        hook(request)
    assert set(request.extensions["timeout"].values()) == {None}


def test_a_client_that_another_thread_closed_is_made_anew(
    repository: Repository, hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = HfApi.list_repo_refs

    closed = []

    def closing(*arguments: object, **options: object) -> object:
        if closed:
            return refs(*arguments, **options)
        closed.append(get_session())
        closed[0].close()
        try:
            return refs(*arguments, **options)
        finally:
            close_session()

    monkeypatch.setattr(HfApi, "list_repo_refs", closing)
    assert "step1" in repository.refs()
    assert sleeps == [1]


def test_many_threads_ask_at_once(repository: Repository, hub: Hub, remote: Remote, sleeps: list[float]) -> None:
    """Eight of them list while one fetches, a fault every few requests."""
    repository.refs()
    hub.faults = [Fault("/tree/", 503), Fault("HEAD", 429), Fault("GET /owner/steps/resolve", None, body="reset")]
    steps = [name for name in remote.branches if name != "main"]
    with ThreadPoolExecutor(9) as pool:
        fetched = [pool.submit(repository.fetch, name) for name in steps[:3]]
        trees = list(pool.map(repository.tree, steps * 20))
        places = [one.result() for one in fetched]
    for name, place in zip(steps[:3], places, strict=True):
        assert (place / "model.safetensors").read_bytes() == remote.branches[name]["model.safetensors"]
    assert [set(tree) for tree in trees] == [set(remote.branches[name]) for name in steps * 20]


@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_no_message_holds_a_token(
    repository: Repository, hub: Hub, monkeypatch: pytest.MonkeyPatch, what: str, status: int
) -> None:
    token = "hf_" + "s3cret" * 5
    monkeypatch.setenv("HF_TOKEN", token)
    hub.faults = [
        Fault(REQUESTS[what], status, 1000, headers={"X-Error-Message": f"Invalid {token} in Bearer {token}"})
    ]
    with pytest.raises(OntogenyError) as caught:
        ask(repository, what)
    assert f"Bearer {token}" in hub.tokens
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Client error '403' for url 'https://cdn.test/blob?Policy=p0licy&Signature=s1gned'", "s1gned"),
        ("no connection to https://someone:pa55word@hub.test/api", "pa55word"),
        ("Illegal header value b'Bearer 0ther\\n'", "0ther"),
    ],
)
def test_no_message_holds_what_opens_a_door(text: str, secret: str, online: None) -> None:
    said = explained("owner/steps", ValueError(text))
    assert secret in text
    assert secret not in said
    assert said.startswith("the Hub could not be asked for owner/steps")


def test_offline_nothing_is_tried_again(sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()  # the client reads the setting when it makes its session
    with pytest.raises(OntogenyError, match="HF_HUB_OFFLINE is set"):
        Repository("owner/absent").tree("main")
    assert sleeps == []
