"""How far apart the states of equal tokens in different contexts are (contextual mapping, arXiv 1912.10077).

Two positions of one sequence that hold the same token have different contexts. Pairs are taken within a sequence, so
that no number depends on which sequences share a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 2**22  # numbers of states that are held at once


@dataclass(frozen=True)
class EqualTokens:
    """Every pair of positions, `first` before `second`, of a sequence `of` that hold one token: vectors (P,)."""

    of: Tensor
    first: Tensor
    second: Tensor
    sequences: int

    @classmethod
    def find(cls, ids: Tensor, valid: Tensor | None) -> EqualTokens:
        """The pairs in token ids (B, T); `valid` (B, T) is False at padding."""
        equal = (ids[:, :, None] == ids[:, None, :]).triu(1)
        if valid is not None:
            equal &= valid[:, :, None] & valid[:, None, :]
        of, first, second = equal.nonzero(as_tuple=True)
        return cls(of, first, second, len(ids))

    def distances(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Of states (B, T, d), per sequence the smallest and the mean distance of the pairs, both (B,).

        Each distance is relative to the mean norm of its two states; between two states that are zero it is 0. NaN
        where a sequence holds no token twice.
        """
        state = hidden if hidden.dtype == torch.float64 else hidden.float()
        step = max(1, _PAIRS_AT_ONCE // state.shape[-1])
        parts = [
            _relative_distance(state[of, first], state[of, second])
            for of, first, second in zip(*(one.split(step) for one in (self.of, self.first, self.second)), strict=True)
        ]
        apart = torch.cat(parts) if parts else state.new_empty(0)
        nearest = apart.new_full((self.sequences,), torch.inf).scatter_reduce(0, self.of, apart, "amin")
        total = apart.new_zeros(self.sequences, dtype=torch.float64).index_add(0, self.of, apart.double())
        count = torch.bincount(self.of, minlength=self.sequences)
        return nearest.masked_fill(count == 0, torch.nan), (total / count).to(apart.dtype)


def _relative_distance(one: Tensor, other: Tensor) -> Tensor:
    largest = torch.maximum(one.abs().amax(-1, keepdim=True), other.abs().amax(-1, keepdim=True))
    scale = largest.clamp_min(torch.finfo(one.dtype).tiny)  # the squares neither overflow nor vanish
    one, other = one / scale, other / scale
    norm = (torch.linalg.vector_norm(one, dim=-1) + torch.linalg.vector_norm(other, dim=-1)) / 2
    return torch.where(norm > 0, torch.linalg.vector_norm(one - other, dim=-1) / norm, 0)
