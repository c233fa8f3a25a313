"""Which checkpoints of a series to take."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import log

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP
from ontogeny.dynamics.series import Series
from ontogeny.errors import UsageError

_ITEM = re.compile(r"(\d{1,18})(?::(\d{1,18})(?::(\d{1,18}))?)?")
_SHOWN = 6


@dataclass(frozen=True)
class Selection:
    """A series restricted to the steps asked for, and the items of the request that matched none of its steps."""

    series: Series
    absent: tuple[str, ...] = ()


def select_steps(series: Series, spec: str) -> Selection:
    """Restrict a series to `spec`: `all`, `log`, or a list of steps and ranges, `0,1,512,1000:143000:1000`.

    A range is `start:stop[:stride]`, stride 1 where it states none; of the steps it names, both ends included, it takes
    those that the series has. `log` takes step 0, for each power of two the available step nearest to it in the
    logarithm, and the last step. Checkpoints whose step is unknown belong to `all` and to `log`.

    Raises UsageError where `spec` is malformed or matches no checkpoint.
    """
    steps = sorted({checkpoint.step for checkpoint in series.checkpoints})
    if spec.strip() == "all":
        return Selection(series)
    if spec.strip() == "log":
        return Selection(_restricted(series, {UNKNOWN_STEP, *_log_steps(steps)}))
    matches = {item: _in_range(steps, item) for item in (part.strip() for part in spec.split(","))}
    chosen = {step for found in matches.values() for step in found}
    if not chosen:
        raise UsageError(f"steps {spec!r} match no checkpoint: {series.name} has {_described(steps)}")
    return Selection(_restricted(series, chosen), tuple(item for item, found in matches.items() if not found))


def is_reached(spec: str, step: int, taken: Collection[int] = ()) -> bool:
    """Whether `spec` asks for `step` of a training under way, whose later steps nobody knows yet.

    `all` asks for every step, a list for those that it names, `log` for step 0 and for the first step that comes from
    each power of two on: for one that shares its power of two with none of those `taken`. Raises UsageError where
    `spec` is malformed.
    """
    if spec.strip() == "all":
        return True
    if spec.strip() == "log":
        return step.bit_length() not in {one.bit_length() for one in taken}
    named = [_named(item.strip()) for item in spec.split(",")]
    return any(step in steps for steps in named)


def _restricted(series: Series, steps: set[int]) -> Series:
    return series.with_checkpoints(tuple(checkpoint for checkpoint in series.checkpoints if checkpoint.step in steps))


def _in_range(steps: Sequence[int], item: str) -> list[int]:
    named = _named(item)
    return [step for step in steps if step in named]


def _named(item: str) -> range:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise UsageError(
            f"steps {item!r} cannot be read: expected `all`, `log`, or steps and ranges separated by commas, "
            "such as 0,1,512,1000:143000:1000"
        )
    start, stop, stride = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    if stop < start or stride < 1:
        raise UsageError(
            f"the range of steps {item!r} is empty: expected start:stop:stride with stop >= start and stride >= 1"
        )
    return range(start, stop + 1, stride)


def _log_steps(steps: Sequence[int]) -> set[int]:
    trained = [step for step in steps if step > 0]
    chosen = {step for step in steps if step == 0}
    if trained:
        powers = (2**exponent for exponent in range(trained[-1].bit_length()))
        chosen |= {min(trained, key=lambda step: abs(log(step / power))) for power in powers}
        chosen.add(trained[-1])
    return chosen


def _described(steps: Sequence[int]) -> str:
    known = [step for step in steps if step != UNKNOWN_STEP]
    if not known:
        return "no step numbers; ask for `all`"
    shown = [str(step) for step in known]
    if len(shown) > 2 * _SHOWN:
        shown = [*shown[:_SHOWN], "...", *shown[-_SHOWN:]]
    return f"{len(known)} step{'s' if len(known) > 1 else ''}: {', '.join(shown)}"
