"""The 0.90 support: how many keys hold 90 % of a query row's attention (arXiv 2008.02217)."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 0.90
SAMPLED_ROWS = 16
FIRST_CLASS_ROW = 127
CLASS_LENGTH = 256


def sampled_rows(length: int) -> tuple[int, ...]:
    """The query rows (0-based) on which the support is taken: up to 16, evenly spaced and fixed.

    From 256 tokens on they start at the 128th row, so that a head's class does not rest on short rows.
    """
    first = FIRST_CLASS_ROW if length >= CLASS_LENGTH else 0
    count = min(SAMPLED_ROWS, length - first)
    return tuple(first + round(step * (length - 1 - first) / max(count - 1, 1)) for step in range(count))


def support_size(rows: Tensor) -> Tensor:
    """The least number of keys whose attention sums to 0.90 of the row's mass; rows (..., S) -> int32 (...).

    Sums are in float64, with a slack of 1e-6 so that a tie broken by rounding counts as reached. An empty row gives 0.
    """
    ordered = rows.double().sort(dim=-1, descending=True).values
    mass = ordered.sum(-1, keepdim=True)
    short = ordered.cumsum(-1) < SHARE * mass - 1e-6
    return ((short.sum(-1) + 1) * (mass.squeeze(-1) > 0)).to(torch.int32)
