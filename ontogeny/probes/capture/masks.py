"""Which keys a query may see: the patterns that can be measured, recognised in a model's own mask function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.inputs import MaskMod

CHECKED_ROWS = 256


@dataclass(frozen=True)
class Pattern:
    """Which keys a query sees, padding aside: all of them, those up to its own, or the `window` latest of those."""

    causal: bool
    window: int | None

    @classmethod
    def of(cls, causal: bool, window: int | None, length: int) -> Pattern:
        """The pattern on `length` tokens; what hides nothing at that length is dropped."""
        if not causal or length == 1:
            return cls(causal=False, window=None)
        return cls(causal=True, window=window if window is not None and window < length else None)

    def __str__(self) -> str:
        if not self.causal:
            return "bidirectional attention"
        return "causal attention" if self.window is None else f"a window of {self.window}"

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Bool, broadcast over the indices `queries` and `keys`."""
        if not self.causal:
            return (queries >= 0) & (keys >= 0)
        seen = keys <= queries
        return seen if self.window is None else seen & (queries - keys < self.window)


@dataclass(frozen=True)
class Visibility:
    """A pattern, what is no padding, `valid` (B, T), and a mask function besides, in a layer of `heads` heads."""

    pattern: Pattern
    valid: Tensor
    heads: int
    mask_mod: MaskMod | None = None

    def of_rows(self, rows: Tensor) -> Tensor:
        """Which keys the query `rows` (R,) see: bool (B, H, R, T)."""
        i, j = rows[:, None], torch.arange(self.valid.shape[1], device=rows.device)
        b = torch.arange(len(self.valid), device=rows.device).view(-1, 1, 1, 1)
        h = torch.arange(self.heads, device=rows.device).view(-1, 1, 1)
        seen = self.pattern.visible(i, j) & self.valid[b, i] & self.valid[b, j]
        if self.mask_mod is not None:
            seen = seen & self.mask_mod(b, h, i, j)
        return seen.expand(-1, self.heads, -1, -1)

    def seeing_rows(self) -> Tensor:
        """How many query rows see a key: (B, H)."""
        if self.mask_mod is None:
            return self.valid.sum(1, keepdim=True).expand(-1, self.heads)
        every = torch.arange(self.valid.shape[1], device=self.valid.device)
        parts = [self.of_rows(rows).any(-1).sum(-1) for rows in every.split(CHECKED_ROWS)]
        return torch.stack(parts).sum(0)


def read_pattern(
    mask_function: Callable[..., Tensor], batch: int, queries: int, keys: int, window: int | None, device: torch.device
) -> Pattern:
    """Recognise what a model's mask function hides, by evaluating it on every (query, key) pair.

    Packed sequences, attention in chunks or blocks and other patterns that a `Pattern` cannot say raise OntogenyError:
    they would otherwise be measured as something that they are not.
    """
    sequence = torch.arange(batch, device=device)[:, None, None, None]
    head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    key = torch.arange(keys, device=device)[None, None, None, :]
    candidates = {Pattern(causal=False, window=None), Pattern.of(True, None, keys), Pattern.of(True, window, keys)}
    for start in range(0, queries, CHECKED_ROWS):
        query = torch.arange(start, min(start + CHECKED_ROWS, queries), device=device)[None, None, :, None]
        found = mask_function(sequence, head, query, key)
        candidates = {one for one in candidates if bool((found == one.visible(query, key)).all())}
    if not candidates:
        raise OntogenyError(
            "this model masks attention in a pattern that is neither bidirectional, causal nor a causal sliding window "
            "(packed sequences and chunked attention are such patterns): its attention cannot be measured; "
            "pass unpacked sequences, or leave the attention out: needs={'residual'}, or scan with --probes massive"
        )
    return min(candidates, key=lambda one: (not one.causal, one.window or 0))
