"""Kernel F, query-major: the output, and every statistic of a row, in one pass over the keys."""

from __future__ import annotations

import triton
import triton.language as tl

from ontogeny.kernels.triton.bounds import key_bounds, part_of
from ontogeny.kernels.triton.rows import FLOOR, finish, softmax_step, unnormalised_step
from ontogeny.kernels.triton.tiles import HIDDEN, LOG2E, load_rows, product, scores, tokens, visible
from ontogeny.kernels.triton.weights import unnormalised


@triton.jit
def forward_kernel(
    Q, K, V, OUTPUT, LSE, ENTROPY, ROW_MAX, PARTICIPATION, MASS, DISTANCE, SINKS, THRESHOLDS, MASK, SPANS,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    queries, keys, heads, group, window, scale, softcap,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MECHANISM: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, HAS_MASK: tl.constexpr, HAS_OUTPUT: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M queries of one head. OUTPUT (B, H, T, DV) and the statistics (B, H, T) are contiguous."""
    tiles = tl.cdiv(queries, BLOCK_M)
    tile = tl.program_id(0) % tiles
    if CAUSAL:
        tile = tiles - 1 - tile  # the long programs first
    head = (tl.program_id(0) // tiles).to(tl.int64)
    b, h = head // heads, head % heads
    K += b * k_batch + h // group * k_head
    V += b * v_batch + h // group * v_head
    if HAS_MASK:
        MASK += b * keys
        SPANS += b * 3
    first = tile * BLOCK_M
    i = first + tl.arange(0, BLOCK_M)
    some = tokens(MASK, i, queries, HAS_MASK)
    q = load_rows(Q + b * q_batch + h * q_head, q_row, first, queries, BLOCK_M, D, BLOCK_D, True)
    threshold = 0.0
    if MECHANISM == "sigmoid" or MECHANISM == "relu":
        threshold = tl.load(THRESHOLDS + b)

    total, acc = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    energy, squares, far, m, top, sink = total, total, total, total + FLOOR, total + FLOOR, 0.0
    if MECHANISM == "softmax_sink":
        sink = tl.load(SINKS + h).to(tl.float32) * LOG2E
        m = tl.maximum(m, sink)
    lo, whole_lo, whole_hi, hi = key_bounds(first, keys, window, SPANS, BLOCK_M, BLOCK_N, CAUSAL, WINDOWED, HAS_MASK)
    for part in tl.static_range(3):
        if part > 0 or (WINDOWED or HAS_MASK):
            start, stop = part_of(part, lo, whole_lo, whole_hi, hi)
            m, total, energy, squares, top, far, acc = _attend(
                m, total, energy, squares, top, far, acc, q, i, threshold, start, stop, K, V, MASK,
                k_row, v_row, keys, window, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_N,
                MECHANISM, CAUSAL, WINDOWED, CAPPED, HAS_MASK, HAS_OUTPUT, UPCAST, part != 1,
            )  # fmt: skip
    lse, entropy, row_max, participation, mass, share = finish(
        m, total, energy, squares, top, sink, threshold, some, MECHANISM
    )
    rows, inside = head * queries + i, i < queries
    tl.store(LSE + rows, lse, mask=inside)
    tl.store(ENTROPY + rows, entropy, mask=inside)
    tl.store(ROW_MAX + rows, row_max, mask=inside)
    tl.store(PARTICIPATION + rows, participation, mask=inside)
    tl.store(MASS + rows, mass, mask=inside)
    if not CAUSAL:
        tl.store(DISTANCE + rows, tl.where(some, far * share, 0.0), mask=inside)
    if HAS_OUTPUT:
        column = tl.arange(0, BLOCK_DV)
        acc = tl.where(some[:, None], acc * share[:, None], 0.0).to(OUTPUT.dtype.element_ty)
        at = OUTPUT + rows[:, None] * DV + column[None, :]
        tl.store(at, acc, mask=inside[:, None] & (column < DV)[None, :])


@triton.jit
def _attend(
    m, total, energy, squares, top, far, acc, q, i, threshold, start, stop, K, V, MASK,
    k_row, v_row, keys, window, scale, softcap, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, MECHANISM: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, HAS_MASK: tl.constexpr,
    HAS_OUTPUT: tl.constexpr, UPCAST: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The sums and the output moved on over the keys `start` to `stop`; MASKED where one of them may be hidden."""
    ONLINE: tl.constexpr = MECHANISM == "softmax" or MECHANISM == "softmax_sink"
    for n in range(start, stop, BLOCK_N):
        k = load_rows(K, k_row, n, keys, BLOCK_N, D, BLOCK_D, MASKED)
        j = n + tl.arange(0, BLOCK_N)
        s, unit = product(q, tl.trans(k), UPCAST), scale
        if MASKED or (CAPPED or not ONLINE):
            s, unit = scores(s, scale, softcap, CAPPED), 1.0
        if MASKED:
            some_j = tokens(MASK, j, keys, HAS_MASK)
            seen = visible(i[:, None], j[None, :], some_j[None, :], window, CAUSAL, WINDOWED, HAS_MASK)
            s = tl.where(seen, s, HIDDEN)
        if ONLINE:
            p, shrink, m, total, energy, squares, top = softmax_step(
                s, unit, m, total, energy, squares, top, MECHANISM == "softmax_sink"
            )
            acc, far = acc * shrink[:, None], far * shrink
        else:
            p, log_p = unnormalised(s, threshold, MECHANISM)
            total, energy, squares, top = unnormalised_step(p, log_p, total, energy, squares, top)
        if not CAUSAL:
            far += tl.sum(p * tl.abs(i[:, None] - j[None, :]).to(tl.float32), 1)
        if HAS_OUTPUT:
            v = load_rows(V, v_row, n, keys, BLOCK_N, DV, BLOCK_DV, MASKED)
            acc += product(p, v, UPCAST)
    return m, total, energy, squares, top, far, acc
