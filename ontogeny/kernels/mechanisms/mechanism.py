"""The protocol that an attention mechanism follows: one number for each row, then a function of each score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScoredRows:
    """Rows of scores (..., S), -inf at hidden keys and somewhere finite in each row.

    `keys`: how many keys the sequence has, padding left out. `sinks`: the sink logit of the rows, None where there is
    none. Both broadcast to (..., 1).
    """

    scores: Tensor
    keys: Tensor
    sinks: Tensor | None = None


@dataclass(frozen=True)
class Mechanism:
    """How scores become attention; every function is differentiable and works in any floating dtype.

    `threshold` gives each row's number (..., 1), and `weight(scores, threshold)` the attention of each key, 0 for a
    score of -inf. `source` is an arXiv id. With `takes_sinks` a sink logit shares the row with the keys; `has_lse`
    tells that the threshold is the logarithm of the row's normaliser.
    """

    name: str
    source: str
    threshold: Callable[[ScoredRows], Tensor]
    weight: Callable[[Tensor, Tensor], Tensor]
    has_lse: bool = False
    takes_sinks: bool = False
