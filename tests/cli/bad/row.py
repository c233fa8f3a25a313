"""A kind of bad input for the command line: what to make, what to run, what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.models import tiny

SMALL = ("--sequences", "2", "--length", "20")
SCAN = ("scan", "{tmp}/run", "--out", "{tmp}/scan", *SMALL)
CANARY = "ran"


@dataclass(frozen=True)
class Row:
    """`make` makes the bad thing in a folder that holds `run`, two good checkpoints: step1 and step2.

    `arguments` follow `ontogeny`, with {tmp} for that folder. `said` must be found in what is printed on stderr.
    """

    name: str
    make: Callable[[Path], object]
    code: int
    said: str
    arguments: tuple[str, ...] = SCAN


def options(*more: str) -> tuple[str, ...]:
    return (*SCAN, *more)


def source(path: str) -> tuple[str, ...]:
    return ("scan", path, "--out", "{tmp}/scan", *SMALL)


def nothing(tmp: Path) -> None:
    """The input is good: it is what is asked of it that is bad."""


def spoiled(name: str, make: Callable[[Path], object], said: str) -> Row:
    """A row of which step2, scanned alone, cannot be measured."""
    return Row(name, make, 1, f"not one of 1 checkpoints could be measured: .*(?:{said})", (*SCAN, "--steps", "2"))


def step2(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """What changes the folder of step2."""
    return lambda tmp: change(tmp / "run" / "step2")


def neox(**more: object) -> dict[str, object]:
    """What a trainer of the series would save, and more."""
    return {"state_dict": tiny("gpt_neox").state_dict(), **more}


def corpus(name: str, contents: bytes | str) -> Callable[[Path], object]:
    """What writes a file."""
    data = contents.encode() if isinstance(contents, str) else contents
    return lambda tmp: (tmp / name).write_bytes(data)
