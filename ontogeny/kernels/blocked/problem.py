"""The inputs, cut into blocks of query rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.kernels.chosen import working_dtype
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.visibility import visible

BLOCK_ROWS = 64
BLOCK_SCORES = 2**20


@dataclass(frozen=True)
class Block:
    """Some units, some of their query rows, and the keys that these rows may see: a range, or indices."""

    units: slice
    rows: slice
    keys: slice | Tensor

    def key_indices(self, device: torch.device) -> Tensor:
        """The keys as indices (K,)."""
        if isinstance(self.keys, Tensor):
            return self.keys
        return torch.arange(self.keys.start, self.keys.stop, device=device)


class Problem:
    """The inputs, with the B sequences and Hkv key heads flattened into `units` of `group` query heads each."""

    def __init__(self, inputs: AttentionInputs) -> None:
        self.inputs = inputs
        self.device = inputs.q.device
        self.dtype = working_dtype(inputs)
        self.batch, self.heads, self.queries, _ = inputs.q.shape
        self.kv_heads, self.keys = inputs.k.shape[1:3]
        self.group, self.units = inputs.group, self.batch * self.kv_heads
        self.q = inputs.q.reshape(self.units, self.group, self.queries, -1)
        self.k = inputs.k.reshape(self.units, self.keys, -1)
        self.v = inputs.v.reshape(self.units, self.keys, -1)
        self.may_hide_rows = inputs.mask is not None or inputs.mask_mod is not None
        self.key_counts = inputs.key_counts().to(self.dtype).repeat_interleave(self.kv_heads, 0)
        self.sinks = self.bias = None
        if inputs.sinks is not None:
            self.sinks = inputs.sinks.to(self.dtype).view(self.kv_heads, self.group, 1).repeat(self.batch, 1, 1)
        if inputs.bias is not None:
            whole = inputs.bias.expand(self.batch, self.heads, self.queries, self.keys)
            self.bias = whole.unflatten(1, (self.kv_heads, self.group))

    def blocks(self) -> Iterator[Block]:
        """Every block in which some row sees some key."""
        units_at_once = max(1, BLOCK_SCORES // (BLOCK_ROWS * self.group * self.keys))
        for first in range(0, self.units, units_at_once):
            units = slice(first, min(first + units_at_once, self.units))
            for start in range(0, self.queries, BLOCK_ROWS):
                rows = slice(start, min(start + BLOCK_ROWS, self.queries))
                keys = self._keys_seen(units, rows)
                if isinstance(keys, slice) or len(keys):
                    yield Block(units, rows, keys)

    def _keys_seen(self, units: slice, rows: slice) -> slice | Tensor:
        window = self.inputs.window
        low = 0 if window is None else max(0, rows.start - window + 1)
        high = rows.stop if self.inputs.causal else self.keys
        if self.inputs.mask_mod is None:
            return slice(low, high)
        seen = self._visible(units, rows, torch.arange(low, high, device=self.device))
        return low + seen.flatten(0, -2).any(0).nonzero().squeeze(1)

    def scores(self, block: Block, floor: float) -> Tensor:
        """Scores (units, group, rows, keys) of one block; hidden keys hold `floor`."""
        q = self.q[block.units, :, block.rows].to(self.dtype).flatten(1, 2) * self.inputs.scale
        k = self.k[block.units, block.keys].to(self.dtype)
        scores = torch.bmm(q, k.transpose(1, 2)).view(q.shape[0], self.group, -1, k.shape[1])
        if self.inputs.softcap is not None:
            scores.div_(self.inputs.softcap).tanh_().mul_(self.inputs.softcap)
        if self.bias is not None:
            unit = torch.arange(block.units.start, block.units.stop, device=self.device)
            bias = self.bias[unit // self.kv_heads, unit % self.kv_heads, :, block.rows]
            scores += bias[..., block.keys].to(self.dtype)
        return self._hide(scores, block, floor)

    def _hide(self, scores: Tensor, block: Block, floor: float) -> Tensor:
        if not (self.inputs.causal or self.may_hide_rows):
            return scores
        keys = block.key_indices(self.device)
        if self.may_hide_rows or self.inputs.window is not None:
            return scores.masked_fill_(~self._visible(block.units, block.rows, keys), floor)
        # Causal and nothing else: only the square on the diagonal hides anything. Zeroing it first, rather than filling
        # it by a mask, is several times faster, and a NaN ahead of a query does not reach it.
        size = block.rows.stop - block.rows.start
        ahead = torch.full((size, size), floor, dtype=self.dtype, device=self.device).triu_(1)
        scores[..., block.rows.start :].tril_().add_(ahead)
        return scores

    def _visible(self, units: slice, rows: slice, keys: Tensor) -> Tensor:
        unit = torch.arange(units.start, units.stop, device=self.device).view(-1, 1, 1, 1)
        head = unit % self.kv_heads * self.group + torch.arange(self.group, device=self.device).view(-1, 1, 1)
        query = torch.arange(rows.start, rows.stop, device=self.device).view(-1, 1)
        seen = visible(self.inputs, unit // self.kv_heads, head, query, keys)
        return seen.view((1,) * (4 - seen.ndim) + seen.shape)
