"""What the name of a revision or a folder states about a checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(
    r"(?:^|[-_.])(?:(?:global|train)[-_]?)?(?:step|checkpoint|ckpt|iter(?:ation)?)[-_=]?(\d{1,18})(?=$|[-_]|\.(?!\d))",
    re.IGNORECASE | re.ASCII,
)
_TOKENS = re.compile(r"(?:^|[-_.])tokens?[-_=]?(\d+(?:\.\d+)?)([KMBT]?)(?![A-Za-z])", re.IGNORECASE)
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Stated:
    """A checkpoint's `step`, the `tokens` seen (None where the name does not say) and the `run` that it belongs to.

    `run` is what stands before the step: `stage1` in `stage1-step140000-tokens294B`, nothing in `step1000`.
    """

    step: int
    tokens: float | None = None
    run: str = ""


def read_name(name: str) -> Stated | None:
    """What `name` states; None where it states no step.

    Known are the forms that trainers and published series write: `step1000`, `checkpoint-500`, `global_step20`,
    `iter_0005000`, `step5500-tokens23B`, `stage1-step140000-tokens294B`, `epoch=1-step=500`.
    """
    steps = list(_STEP.finditer(name))
    if not steps or "/" in name:
        return None
    step = steps[-1]
    tokens = _TOKENS.search(name, step.end())
    return Stated(
        step=int(step[1]),
        tokens=float(tokens[1]) * _UNITS[tokens[2].upper()] if tokens else None,
        run=name[: step.start()].strip("-_."),
    )
