"""The 0.90 support: how many keys hold 90 % of a query row's attention (arXiv 2008.02217)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.probes.capture.order import descending

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


@dataclass(frozen=True)
class RealRows:
    """The `sampled_rows` of each sequence's own tokens, as if it had no padding.

    `asked` (U,): all rows that some sequence needs; `place` (B, R): where in `asked` those of each sequence are, and
    `there` (B, R): False in the slots that a shorter sequence leaves empty; both None where each needs all of them.
    """

    asked: Tensor
    place: Tensor | None = None
    there: Tensor | None = None

    @classmethod
    def whole(cls, length: int, device: torch.device) -> RealRows:
        """The rows of sequences without padding."""
        return cls(torch.tensor(sampled_rows(length), device=device))

    @classmethod
    def of(cls, valid: Tensor) -> RealRows:
        """The rows of sequences whose tokens are where `valid` (B, T) is True."""
        rows = torch.full((len(valid), len(sampled_rows(valid.shape[1]))), -1)
        for slots, tokens in zip(rows, valid.cpu(), strict=True):
            places = tokens.nonzero()[:, 0]
            chosen = places[list(sampled_rows(len(places)))]
            slots[: len(chosen)] = chosen
        there = rows >= 0
        asked = rows[there].unique()
        place = torch.searchsorted(asked, rows.clamp_min(0))
        return cls(asked.to(valid.device), place.to(valid.device), there.to(valid.device))

    def pick(self, values: Tensor) -> Tensor:
        """Each sequence's rows of values (B, H, U, ...) on the rows `asked`: (B, H, R, ...), 0 in empty slots."""
        if self.place is None or self.there is None:
            return values
        sequence = torch.arange(len(self.place), device=values.device)[:, None]
        picked = values[sequence, :, self.place].transpose(1, 2)
        return picked * self.there.view(len(self.there), 1, -1, *(1,) * (values.ndim - 3))


def support_size(rows: Tensor) -> Tensor:
    """The least number of keys whose attention sums to 0.90 of the row's mass; rows (..., S) -> int32 (...).

    Sums are in float64, with a slack of 1e-6 so that a tie broken by rounding counts as reached. An empty row gives 0.
    """
    sums = descending(rows).cumsum(-1, dtype=torch.float64)
    mass = sums[..., -1:]
    short = torch.searchsorted(sums, SHARE * mass - 1e-6, out_int32=True)
    return ((short + 1) * (mass > 0)).squeeze(-1)
