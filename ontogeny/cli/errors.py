"""What becomes of an error: one sentence on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial, wraps

import typer
from rich.console import Console
from rich.markup import escape

from ontogeny.errors import OntogenyError, UsageError

FAILED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130
DEBUG = "--debug"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill."""


def heed_signals() -> None:
    """Let SIGINT and SIGTERM end a command in order, and a second one at once."""
    heeded = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) != signal.SIG_IGN]

    def end_in_order(number: int, _frame: object) -> None:
        for one in heeded:
            signal.signal(one, lambda _number, _frame: os._exit(INTERRUPTED))
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for one in heeded:
        signal.signal(one, end_in_order)


def reported(command: Callable[..., int], stopped: str) -> Callable[..., None]:
    """`command`, whose returned code becomes the exit code, and whose errors become a sentence and theirs.

    `stopped` says what an interrupt leaves of it.
    """

    @wraps(command)
    def run(*arguments: object, **options: object) -> None:
        raise typer.Exit(_code(partial(command, *arguments, **options), stopped))

    return run


def _code(run: Callable[[], int], stopped: str) -> int:
    try:
        return run()
    except KeyboardInterrupt as stop:
        _say("terminated" if isinstance(stop, Terminated) else "interrupted", stopped)
        return INTERRUPTED
    except Exception as error:
        if DEBUG in sys.argv:
            traceback.print_exc()
        text = str(error)
        if not isinstance(error, (OntogenyError, OSError)):
            text = f"{type(error).__name__}: {text} (unforeseen: run again with {DEBUG})"
        _say("error", text)
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def _say(what: str, text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(f"[bold red]{what}:[/] {escape(text)}")
