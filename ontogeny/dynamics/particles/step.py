"""Steps of trajectories, and the state inside a step: what integration yields and recording takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Inside(Protocol):
    """The states inside a step."""

    def at(self, which: Tensor, share: Tensor) -> Tensor:
        """States (m, n, d) on the sphere of the step's trajectories `which` (m,), `share` (m,) of the step done."""
        ...


@dataclass(frozen=True)
class Step:
    """One step of some trajectories of a batch, each of its own size.

    `rows` (m,) are their places in the batch, `start` and `end` (m,) the step's times, `x` (m, n, d) the states at its
    end, `settled` (m,) whether those will not change any more.
    """

    rows: Tensor
    start: Tensor
    end: Tensor
    x: Tensor
    inside: Inside
    settled: Tensor
