"""Sparse attention as mask functions, in the form that FlexAttention uses: mask_mod(b, h, i, j) -> bool.

Each tells, from integer index tensors of sequence, head, query and key, which query sees which key. They combine by
`&` inside a function of one's own, and with `causal=True` whatever lies ahead is hidden besides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.inputs import MaskMod


def sliding_window(width: int) -> MaskMod:
    """Keys fewer than `width` tokens away, on both sides (arXiv 2004.05150)."""
    _at_least("width", width, 1)

    def near(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() < width

    return near


def big_bird(
    length: int,
    *,
    block: int = 64,
    window_blocks: int = 3,
    global_blocks: int = 1,
    random_blocks: int = 3,
    causal: bool = False,
    seed: int = 0,
) -> MaskMod:
    """Global, window and random blocks of `block` tokens on `length` tokens (arXiv 2007.14062).

    The first `global_blocks` blocks see and are seen by all; each block sees the `window_blocks` around it, an odd
    number, itself included; and of those that remain, `random_blocks` drawn with `seed`: with `causal` from the past.
    """
    for name, number, least in (
        ("length", length, 1),
        ("block", block, 1),
        ("window_blocks", window_blocks, 1),
        ("global_blocks", global_blocks, 0),
        ("random_blocks", random_blocks, 0),
    ):
        _at_least(name, number, least)
    if window_blocks % 2 == 0:
        raise OntogenyError(
            f"window_blocks: expected an odd number, so that a block has as many on each side, got {window_blocks}"
        )
    blocks = -(-length // block)
    place = torch.arange(blocks)
    seen = (place[:, None] - place).abs() <= window_blocks // 2
    seen |= (place < global_blocks)[:, None] | (place < global_blocks)
    generator = torch.Generator().manual_seed(seed)
    for row in range(blocks):
        free = (~seen[row, : row + 1 if causal else blocks]).nonzero().squeeze(1)
        order = torch.randperm(len(free), generator=generator)
        seen[row, free[order[:random_blocks]]] = True

    return _Listed(seen, block, length)


def power_attention(block: int = 1) -> MaskMod:
    """Keys 0 or a power of two blocks of `block` tokens before the query (arXiv 2503.03588); causal by itself.

    With blocks of one token, n layers carry what lies up to 2^n - 1 tokens back.
    """
    _at_least("block", block, 1)

    def spaced(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        back = i // block - j // block
        return (j <= i) & (back & (back - 1) == 0)

    return spaced


@dataclass(frozen=True)
class _Listed:
    """Which block of `block` tokens sees which, as a table `seen` made for `length` tokens."""

    seen: Tensor = field(repr=False)
    block: int
    length: int

    def __call__(self, _b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.seen.to(i.device)[i // self.block, j // self.block]


def _at_least(name: str, number: int, least: int) -> None:
    if not isinstance(number, int) or number < least:
        raise OntogenyError(f"{name}: expected a whole number, at least {least}, got {number!r}")
