"""What becomes of an error: one sentence on stderr and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import wraps

import typer
from rich.console import Console
from rich.markup import escape

from ontogeny.errors import OntogenyError, UsageError

FAILED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130
DEBUG = "--debug"


def reported(command: Callable[..., int]) -> Callable[..., None]:
    """`command`, whose returned code becomes the exit code, and whose errors become a sentence and theirs."""

    @wraps(command)
    def run(*arguments: object, **options: object) -> None:
        raise typer.Exit(_code(command, arguments, options))

    return run


def _code(command: Callable[..., int], arguments: tuple[object, ...], options: dict[str, object]) -> int:
    try:
        return command(*arguments, **options)
    except KeyboardInterrupt:
        _say("interrupted; what was measured before is kept, and the same command goes on from there")
        return INTERRUPTED
    except Exception as error:
        if DEBUG in sys.argv:
            traceback.print_exc()
        expected = isinstance(error, (OntogenyError, OSError))
        _say(str(error) if expected else f"{type(error).__name__}: {error} (unforeseen: run again with {DEBUG})")
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(text)}")
