"""The inputs, cut into blocks of query rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
        self.dtype = inputs.working_dtype
        self.batch, self.heads, self.queries, _ = inputs.q.shape
        self.kv_heads, self.keys = inputs.k.shape[1:3]
        self.group, self.units = inputs.group, self.batch * self.kv_heads
        self.q = inputs.q.reshape(self.units, self.group, self.queries, -1)
        self.k, self.v = (self._without_padding(x).reshape(self.units, self.keys, -1) for x in (inputs.k, inputs.v))
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
        """`scores` with `floor` at hidden keys; padding rows aside, which `padding_rows` tells.

        Zeroing a triangle, or adding to it, is several times faster than filling by a mask of bools.
        """
        if self.inputs.mask_mod is not None:
            keys = block.key_indices(self.device)
            return scores.masked_fill_(~self._visible(block.units, block.rows, keys), floor)
        assert isinstance(block.keys, slice)
        if self.inputs.mask is not None:
            absent = ~self._of_units(self.inputs.mask, block.units)[:, None, None, block.keys]
            scores += torch.zeros(absent.shape, dtype=self.dtype, device=self.device).masked_fill_(absent, floor)
        if self.inputs.causal:
            self._hide_corner(scores[..., block.rows.start - block.keys.start :], 0, floor, ahead=True)
        if self.inputs.window is not None:
            oldest = block.rows.start - self.inputs.window + 1 - block.keys.start
            self._hide_corner(scores[..., : max(0, oldest + BLOCK_ROWS)], oldest, floor, ahead=False)
        return scores

    def _hide_corner(self, corner: Tensor, diagonal: int, floor: float, ahead: bool) -> None:
        """Set what lies above the `diagonal` (`ahead`), or below it, to `floor`, whatever was there."""
        hidden = torch.full(corner.shape[-2:], floor, dtype=self.dtype, device=self.device)
        if ahead:
            corner.tril_(diagonal).add_(hidden.triu_(diagonal + 1))
        else:
            corner.triu_(diagonal).add_(hidden.tril_(diagonal - 1))

    def padding_rows(self, block: Block) -> Tensor | None:
        """The rows of a block that are padding, (units, 1, rows); None where there is none."""
        if self.inputs.mask is None:
            return None
        return ~self._of_units(self.inputs.mask, block.units)[:, None, block.rows]

    def _of_units(self, mask: Tensor, units: slice) -> Tensor:
        unit = torch.arange(units.start, units.stop, device=self.device)
        return mask[unit // self.kv_heads]

    def _without_padding(self, x: Tensor) -> Tensor:
        """Keys or values with 0 at padding, so that nothing that stands there, NaN included, reaches a token."""
        mask = self.inputs.mask
        return x if mask is None else x.masked_fill(~mask[:, None, :, None], 0)

    def _visible(self, units: slice, rows: slice, keys: Tensor) -> Tensor:
        unit = torch.arange(units.start, units.stop, device=self.device).view(-1, 1, 1, 1)
        head = unit % self.kv_heads * self.group + torch.arange(self.group, device=self.device).view(-1, 1, 1)
        query = torch.arange(rows.start, rows.stop, device=self.device).view(-1, 1)
        seen = visible(self.inputs, unit // self.kv_heads, head, query, keys)
        return seen.view((1,) * (4 - seen.ndim) + seen.shape)
