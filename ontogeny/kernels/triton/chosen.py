"""The parts of the map that were asked for, from each row's logsumexp: chosen rows, or chosen columns."""

from __future__ import annotations

import triton
import triton.language as tl

from ontogeny.kernels.triton.tiles import HIDDEN, LOG2E, product, scores, tokens, visible
from ontogeny.kernels.triton.weights import unnormalised


@triton.jit
def map_kernel(
    Q, K, LSE, MAP, ROWS, COLUMNS, THRESHOLDS, MASK, q_batch, q_head, q_row, k_batch, k_head, k_row,
    queries, keys, rows, columns, heads, group, window, scale, softcap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MECHANISM: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, HAS_MASK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: a tile of one head's MAP (B, H, rows, columns). ROWS (rows,), COLUMNS (columns,): None for all."""
    across = tl.cdiv(columns, BLOCK_N)
    tiles = tl.cdiv(rows, BLOCK_M) * across
    head = (tl.program_id(0) // tiles).to(tl.int64)
    b, h = head // heads, head % heads
    tile = tl.program_id(0) % tiles
    r = tile // across * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tile % across * BLOCK_N + tl.arange(0, BLOCK_N)
    i, j = r, c
    if ROWS is not None:
        i = tl.load(ROWS + r, mask=r < rows, other=queries).to(tl.int32)
    if COLUMNS is not None:
        j = tl.load(COLUMNS + c, mask=c < columns, other=keys).to(tl.int32)
    if HAS_MASK:
        MASK += b * keys
    some_i, some_j = tokens(MASK, i, queries, HAS_MASK), tokens(MASK, j, keys, HAS_MASK)
    q = _gather(Q + b * q_batch + h * q_head, q_row, i, queries, D, BLOCK_D)
    k = _gather(K + b * k_batch + h // group * k_head, k_row, j, keys, D, BLOCK_D)
    s = scores(product(q, tl.trans(k), UPCAST), scale, softcap, CAPPED)
    seen = visible(i[:, None], j[None, :], some_i[:, None] & some_j[None, :], window, CAUSAL, WINDOWED, True)
    if MECHANISM == "softmax" or MECHANISM == "softmax_sink":
        lse = tl.load(LSE + head * queries + i, mask=i < queries, other=0.0)
        weights = tl.exp2(tl.where(seen, s - (lse * LOG2E)[:, None], HIDDEN))
    else:
        threshold = tl.load(THRESHOLDS + b)
        weights, _ = unnormalised(s, threshold, MECHANISM)
        if MECHANISM == "relu":
            weights = weights / threshold
        weights = tl.where(seen, weights, 0.0)
    at = MAP + (head * rows + r[:, None]) * columns + c[None, :]
    tl.store(at, weights, mask=(r < rows)[:, None] & (c < columns)[None, :])


@triton.jit
def _gather(X, stride, places, size, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The rows of X (size, D) at `places`, as a tile, 0 outside."""
    column = tl.arange(0, BLOCK_D)
    at = X + places.to(tl.int64)[:, None] * stride + column[None, :]
    return tl.load(at, mask=(places < size)[:, None] & (column < D)[None, :], other=0.0)
