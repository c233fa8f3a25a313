"""The next checkpoints are fetched and read while the present one computes."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

THREAD = "ontogeny-prefetch"
_LAST_WORD = 2.0  # seconds that a thread is given to end by itself


@dataclass(frozen=True)
class _Outcome(Generic[Made]):
    made: Made | None
    error: Exception | None


@contextmanager
def ahead(
    items: Sequence[Item], make: Callable[[Item], Made], count: int
) -> Iterator[Iterable[tuple[Item, Callable[[], Made]]]]:
    """Go through `items` in order, each with a function that returns `make(item)`, or raises what that raised.

    A thread makes up to `count` of them ahead of the one that is asked for; with 0, each is made when it is asked for.
    On leaving, what is being made is given up: the thread ends after it, and at the latest with the process.
    """
    if count == 0:
        yield ((item, partial(make, item)) for item in items)
        return
    made: queue.SimpleQueue[_Outcome[Made]] = queue.SimpleQueue()
    room, given_up = threading.Semaphore(count), threading.Event()

    def work() -> None:
        for item in items:
            room.acquire()
            if given_up.is_set():
                return
            made.put(_outcome(make, item))

    def take() -> Made:
        outcome = made.get()
        room.release()
        try:
            if outcome.error is not None:
                raise outcome.error
            return outcome.made  # type: ignore[return-value]
        finally:
            del outcome  # or the error, by its traceback, would keep itself and what was read

    # A thread cannot be stopped in the middle of a download: as a daemon it holds up no exit.
    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    # Filters of warnings belong to the process: two threads that change them for a while can leave them changed.
    with warnings.catch_warnings():
        thread.start()
        try:
            yield ((item, take) for item in items)
        finally:
            given_up.set()
            room.release()
            thread.join(_LAST_WORD)


def _outcome(make: Callable[[Item], Made], item: Item) -> _Outcome[Made]:
    try:
        return _Outcome(make(item), None)
    except Exception as error:
        return _Outcome(None, error)
