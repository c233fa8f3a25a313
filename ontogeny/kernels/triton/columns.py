"""Kernel C, key-major: the attention that each key receives, summed in one order always, so without atomics."""

from __future__ import annotations

import triton
import triton.language as tl

from ontogeny.kernels.triton.bounds import part_of, query_bounds
from ontogeny.kernels.triton.tiles import ENDLESS, HIDDEN, LOG2E, load_rows, product, scores, tokens, visible
from ontogeny.kernels.triton.weights import unnormalised


@triton.jit
def column_kernel(
    Q, K, LSE, COLUMN_MASS, THRESHOLDS, MASK, SPANS, q_batch, q_head, q_row, k_batch, k_head, k_row,
    queries, keys, heads, group, window, scale, softcap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MECHANISM: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, HAS_MASK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N keys of one query head. LSE (B, H, T) and COLUMN_MASS (B, H, S) are contiguous."""
    tiles = tl.cdiv(keys, BLOCK_N)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    b, h = head // heads, head % heads
    Q += b * q_batch + h * q_head
    LSE += head * queries
    if HAS_MASK:
        MASK += b * keys
        SPANS += b * 3
    first = tl.program_id(0) % tiles * BLOCK_N  # a causal mask makes the first the longest
    j = first + tl.arange(0, BLOCK_N)
    some = tokens(MASK, j, keys, HAS_MASK)
    k = load_rows(K + b * k_batch + h // group * k_head, k_row, first, keys, BLOCK_N, D, BLOCK_D, True)
    k = tl.trans(k)
    threshold = 0.0
    if MECHANISM == "sigmoid" or MECHANISM == "relu":
        threshold = tl.load(THRESHOLDS + b)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    lo, whole_lo, whole_hi, hi = query_bounds(
        first, queries, window, SPANS, BLOCK_M, BLOCK_N, CAUSAL, WINDOWED, HAS_MASK
    )
    for part in tl.static_range(3):
        if part > 0 or (CAUSAL or HAS_MASK):
            start, stop = part_of(part, lo, whole_lo, whole_hi, hi)
            acc = _receive(
                acc, k, j, some, threshold, start, stop, Q, LSE, MASK, q_row, queries, window, scale, softcap,
                D, BLOCK_D, BLOCK_M, MECHANISM, CAUSAL, WINDOWED, CAPPED, HAS_MASK, UPCAST, part != 1,
            )  # fmt: skip
    mass = tl.sum(acc, 0)
    if MECHANISM == "relu":
        mass = mass / threshold
    tl.store(COLUMN_MASS + head * keys + j, tl.where(some, mass, 0.0), mask=j < keys)


@triton.jit
def _receive(
    acc, k, j, some, threshold, start, stop, Q, LSE, MASK, q_row, queries, window, scale, softcap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, MECHANISM: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, HAS_MASK: tl.constexpr, UPCAST: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`acc` (queries, keys) and the weights of the queries `start` to `stop`, tile upon tile."""
    ONLINE: tl.constexpr = MECHANISM == "softmax" or MECHANISM == "softmax_sink"
    # Asked for a tile ahead: what is asked for when it is needed is waited for.
    coming = start + tl.arange(0, BLOCK_M)
    lse = tl.load(LSE + coming, mask=coming < queries, other=ENDLESS)
    for n in range(start, stop, BLOCK_M):
        q = load_rows(Q, q_row, n, queries, BLOCK_M, D, BLOCK_D, MASKED)
        i = n + tl.arange(0, BLOCK_M)
        s = scores(product(q, k, UPCAST), scale, softcap, CAPPED)
        if ONLINE:
            s -= (lse * LOG2E)[:, None]
            lse = tl.load(LSE + i + BLOCK_M, mask=i + BLOCK_M < queries, other=ENDLESS)
        if MASKED:
            both = tokens(MASK, i, queries, HAS_MASK)[:, None] & some[None, :]
            checked: tl.constexpr = HAS_MASK or not ONLINE
            seen = visible(i[:, None], j[None, :], both, window, CAUSAL, WINDOWED, checked)
            s = tl.where(seen, s, HIDDEN)
        if ONLINE:
            acc += tl.exp2(s)
        else:
            weights, _ = unnormalised(s, threshold, MECHANISM)
            acc += weights
    return acc
