"""Reading with transformers so that only our own sentence is heard."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ontogeny.errors import OntogenyError
from ontogeny.memory import is_out_of_memory

_LONGEST_REASON = 240


_turn = threading.Lock()
_inside = 0
_outermost = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log, its progress bars and Python warnings; restore all three afterwards.

    All three belong to the process: where several threads are inside, the last one out restores them.
    """
    global _inside
    with _turn:
        if _inside == 0:
            _outermost.enter_context(_silenced())
        _inside += 1
    try:
        yield
    finally:
        with _turn:
            _inside -= 1
            if _inside == 0:
                _outermost.close()


@contextmanager
def _silenced() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as library

    verbosity, bars, no_hub_bars = (
        library.get_verbosity(),
        library.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    )
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
        if no_hub_bars:
            disable_progress_bars()


@contextmanager
def reading(path: object, advice: str) -> Iterator[None]:
    """Turn any failure to read `path` into one OntogenyError that says why and ends with `advice`."""
    try:
        with quiet():
            yield
    except OntogenyError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OntogenyError(
                f"memory does not suffice to read {path} ({reason(error)}): use a smaller --dtype"
            ) from error
        raise OntogenyError(f"{path} cannot be read ({reason(error)}): {advice}") from error


def reason(error: BaseException) -> str:
    """The first line of an error's message, cut short, behind the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
