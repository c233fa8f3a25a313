"""What is known of a pass's queries before any attention is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.probes.capture.support import RealRows


@dataclass(frozen=True)
class Queries:
    """Facts that layers share which hide the same keys; B sequences, H query heads, R sampled rows.

    `sampled`: the rows whose support is taken; `row_length` (B, H, R): how many keys they may see; `seeing` (B, H): how
    many rows see a key, at least 1; `first` (B, H, 1): each sequence's first token; `tokens` (B,): how many it has.
    """

    sampled: RealRows
    row_length: Tensor
    seeing: Tensor
    first: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, valid: Tensor, sampled: RealRows, seen: Tensor, seeing: Tensor) -> Queries:
        """Those of sequences whose padding is where `valid` (B, T) is False.

        `seen` (B, H, U, T): which keys the rows `sampled.asked` see; `seeing` (B, H).
        """
        return cls(
            sampled,
            row_length=sampled.pick(seen.sum(-1)),
            seeing=seeing.clamp_min(1),
            first=valid.int().argmax(1).view(-1, 1, 1).expand(-1, seeing.shape[1], -1),
            tokens=valid.sum(1, dtype=torch.int32),
        )
