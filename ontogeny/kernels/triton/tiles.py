"""What both kernels do with a tile: load it, score it, and tell what is visible in it."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
# What a hidden key scores: finite, for 0 * inf is NaN, and so low that its weight is 0 in every row.
HIDDEN: tl.constexpr = tl.constexpr(-1e30)
# The logsumexp of a query that is none: no key has a weight in its row.
ENDLESS: tl.constexpr = tl.constexpr(1e30)


@triton.jit
def load_rows(X, stride, first, size, ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr):
    """Rows `first` on of X (size, D), `stride` elements apart, as a tile (ROWS, BLOCK_D), 0 outside.

    Without RAGGED all of the rows must exist.
    """
    row = tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_D)
    # 64 bits for the tile's place, for a head may be longer than 2^31 elements; 32 within the tile.
    at = X + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    if RAGGED or D != BLOCK_D:
        return tl.load(at, mask=(first + row < size)[:, None] & (column < D)[None, :], other=0.0)
    return tl.load(at)


@triton.jit
def product(a, b, UPCAST: tl.constexpr):
    """a @ b in float32, with `a` in b's dtype. UPCAST: Triton's interpreter gets products of bfloat16 wrong."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a.to(b.dtype), b, input_precision="ieee")


@triton.jit
def tanh(x):
    """tanh from exp2, and near 0, where that would cancel, from its series."""
    size = tl.abs(x)
    decay = tl.exp2(size * (-2.0 * LOG2E))
    far = (1.0 - decay) / (1.0 + decay)
    square = x * x
    near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    return tl.where(size < 0.2, near, tl.where(x < 0, -far, far))


@triton.jit
def scores(products, scale, softcap, CAPPED: tl.constexpr):
    """Scores from q k, in the unit that `scale` and `softcap` bring with them."""
    if CAPPED:
        return softcap * tanh(products * scale)
    return products * scale


@triton.jit
def tokens(MASK, place, size, HAS_MASK: tl.constexpr):
    """Which of the places hold a token: those below `size`, where the sequence's MASK (size,) is not 0."""
    if HAS_MASK:
        return tl.load(MASK + place, mask=place < size, other=0) != 0
    return place < size


@triton.jit
def visible(i, j, some, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CHECKED: tl.constexpr):
    """Which query i sees which key j, all broadcast together.

    `some`: which of them are tokens. Where that is not CHECKED a causal mask alone decides: it hides the keys after the
    last token, and what the queries after it get is dropped.
    """
    if CAUSAL:
        seen = j <= i
        if CHECKED:
            seen = seen & some
        if WINDOWED:
            seen = seen & (i - j < window)
    else:
        seen = some
    return seen
