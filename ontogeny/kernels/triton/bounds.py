"""Which tiles a program visits, and which of them need no mask.

A program holds one tile and streams those of the other side: a query tile the keys, a key tile the queries. Both
functions return `lo`, `whole_lo`, `whole_hi` and `hi`: between the two in the middle every streamed row is visible to
all tokens of the tile that is held, before and after something may be hidden. A tile of padding alone visits nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def key_bounds(
    i, keys, window, SPAN, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """The keys that the queries i to i + BLOCK_M - 1 visit, in tiles of BLOCK_N. SPAN: one row of `padding.spans`."""
    lo, hi, whole_hi = 0, keys, keys
    if HAS_MASK:
        lo, hi, whole_hi = tl.load(SPAN), tl.load(SPAN + 1), tl.load(SPAN + 2)
        some = (i < hi) & (i + BLOCK_M > lo)
        hi, whole_hi = tl.where(some, hi, 0), tl.where(some, whole_hi, 0)
    whole_lo = lo
    if CAUSAL:
        hi = tl.minimum(hi, i + BLOCK_M)
        whole_hi = tl.minimum(whole_hi, i + 1)
    if WINDOWED:
        whole_lo = tl.maximum(lo, i + BLOCK_M - window)
        lo = tl.maximum(lo, i - window + 1)
    return _whole_tiles(lo, whole_lo, whole_hi, hi, BLOCK_N)


@triton.jit
def query_bounds(
    j, queries, window, SPAN, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """The queries that the keys j to j + BLOCK_N - 1 are visited by, in tiles of BLOCK_M."""
    lo, hi, whole_hi = 0, queries, queries
    if HAS_MASK:
        lo, hi, whole_hi = tl.load(SPAN), tl.load(SPAN + 1), tl.load(SPAN + 2)
        some = (j < hi) & (j + BLOCK_N > lo)
        hi, whole_hi = tl.where(some, hi, 0), tl.where(some, whole_hi, 0)
    whole_lo = lo
    if CAUSAL:
        whole_lo = tl.maximum(lo, j + BLOCK_N - 1)
        lo = tl.maximum(lo, j)
    if WINDOWED:
        hi = tl.minimum(hi, j + BLOCK_N - 1 + window)
        whole_hi = tl.minimum(whole_hi, j + window)
    return _whole_tiles(lo, whole_lo, whole_hi, hi, BLOCK_M)


@triton.jit
def _whole_tiles(lo, whole_lo, whole_hi, hi, BLOCK: tl.constexpr):
    lo = lo // BLOCK * BLOCK
    whole_lo = tl.cdiv(whole_lo, BLOCK) * BLOCK
    whole_hi = tl.maximum(whole_hi // BLOCK * BLOCK, whole_lo)
    return lo, whole_lo, whole_hi, hi


@triton.jit
def part_of(part: tl.constexpr, lo, whole_lo, whole_hi, hi):
    """Where part 0, 1 or 2 of the stream starts and stops; only part 1 needs no mask."""
    start, stop = lo, tl.minimum(whole_lo, hi)
    if part == 1:
        start, stop = whole_lo, whole_hi
    elif part == 2:
        start, stop = whole_hi, hi
    return start, stop
