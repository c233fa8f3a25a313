"""Asking the Hub again when the network fails or the Hub is busy.

The Hub's client retries some of its requests and not others, reads `Retry-After` in one of its two forms and in that
form waits as long as it says, and lists without any limit of time. So inside `retried` every request gets a limit of
time, and an answer that says "later" comes back here at once: nobody waits twice for the same refusal. The content of
a file that breaks off is left to the client, which goes on from where it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx2 as httpx

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between one try and the next, where the Hub states none."""
PATIENCE = 60.0
"""After so many seconds without an answer nothing is tried again ..."""
PATIENCE_IF_ASKED = 360.0
"""... unless the Hub says how long to wait: its limits are counted over five minutes."""
TIME_LIMIT = 20.0
"""Seconds to wait for a connection or for the next bytes, in requests for which the client sets no limit."""

_USED_UP = re.compile(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_TRANSPORT = {"TimeoutException", "NetworkError", "RemoteProtocolError"}


class Later(Exception):  # noqa: N818
    """The Hub answered that it cannot answer now. `wait`: in how many seconds it may, None where it does not say."""

    def __init__(self, status: int, url: str, wait: float | None) -> None:
        super().__init__(f"status {status} from {url}" + ("" if wait is None else f", which asks to wait {wait:.0f} s"))
        self.wait = wait


@dataclass
class _Try:
    """One try: whether the Hub answered anything in it."""

    answered: bool = False


_turn = Lock()
_current: ContextVar[_Try | None] = ContextVar("_current", default=None)


def retried(request: Callable[[], T]) -> T:
    """What `request` returns, tried up to six times while the network fails or the Hub answers 408, 429 or 5xx.

    Between tries it waits as `Retry-After` says (a number of seconds or a date), or longer each time. Tries end after
    a minute of silence, or six where the Hub states waits. Raises what the last try raised, other errors at once.
    """
    silent_since = time.monotonic()
    for pause in PAUSES:
        with _watched() as current:
            try:
                return request()
            except Exception as error:
                if not is_transient(error):
                    raise
                if current.answered:
                    silent_since = time.monotonic()
                asked = error.wait if isinstance(error, Later) else None
                wait = pause if asked is None else max(pause, asked)
                patience = PATIENCE if asked is None else PATIENCE_IF_ASKED
                if time.monotonic() - silent_since + wait > patience:
                    raise
        time.sleep(wait)
    with _watched():
        return request()


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed later."""
    if type(error).__name__ == "OfflineModeIsEnabled":  # a ConnectionError, but no try will find a network
        return False
    if isinstance(error, Later | ConnectionError | TimeoutError):
        return True
    if _TRANSPORT.intersection(kind.__name__ for kind in type(error).__mro__):
        return True
    if isinstance(error, RuntimeError):  # another thread met a dead connection, and the client closed itself for all
        return "client has been closed" in str(error)
    if type(error) is OSError and error.errno is None:  # the client's word for a file of another length than stated
        return True
    response = getattr(error, "response", None)
    if response is not None and _is_later(response.status_code):
        return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def _is_later(status: int) -> bool:
    return status in (408, 429) or status >= 500


@contextmanager
def _watched() -> Iterator[_Try]:
    """Set the limits of this module on what this thread asks of the Hub within the block, and on nothing else."""
    _watch_clients()
    current = _Try()
    token = _current.set(current)
    try:
        yield current
    finally:
        _current.reset(token)


def _watch_clients() -> None:
    """Hook this module into the Hub's client, and into those that take its place: it is made anew on a dead line."""
    from huggingface_hub import get_session, set_client_factory
    from huggingface_hub.utils import _http

    with _turn:
        if _limit_time not in get_session().event_hooks["request"]:
            set_client_factory(partial(_watched_client, _http._GLOBAL_CLIENT_FACTORY))


def _watched_client(make: Callable[[], httpx.Client]) -> httpx.Client:
    client = make()
    client.event_hooks["request"].append(_limit_time)
    client.event_hooks["response"].append(_refuse_later)
    return client


def _limit_time(request: httpx.Request) -> None:
    if _current.get() is not None:
        limits = request.extensions.get("timeout", {})
        phases = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {phase: limits.get(phase) or TIME_LIMIT for phase in phases}


def _refuse_later(response: httpx.Response) -> None:
    current = _current.get()
    if current is None:
        return
    if _is_later(response.status_code):
        raise Later(response.status_code, str(response.url), _stated_wait(response))
    current.answered = True


def _stated_wait(response: httpx.Response) -> float | None:
    """Seconds to wait: as `Retry-After` says, else until the Hub's own `RateLimit`, where it is used up, is renewed."""
    stated = response.headers.get("retry-after", "").strip()
    if stated.isascii() and stated.isdigit():
        return float(stated)
    try:
        date = parsedate_to_datetime(stated)
    except ValueError:
        used_up = _USED_UP.search(response.headers.get("ratelimit", ""))
        return float(used_up[1]) if used_up and response.status_code == 429 else None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
