"""What is a mean over a head's rows, from the statistics of its rows and keys: one program a head, in float64."""

from __future__ import annotations

import triton
import triton.language as tl

from ontogeny.kernels.triton.tiles import tokens


@triton.jit
def mean_kernel(
    MASS, COLUMN_MASS, ROW_DISTANCE, VALUE_NORM, MASK, DISTANCE, WEIGHTED_NORM, queries, keys, heads, group,
    CAUSAL: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """DISTANCE and WEIGHTED_NORM (B, H): sums over the number of rows that see a key.

    DISTANCE sums i mass_i - j column_mass_j, and without a causal mask ROW_DISTANCE (B, H, T). WEIGHTED_NORM sums
    column_mass_j ||v_j||, VALUE_NORM being (B, Hkv, S).
    """
    head = tl.program_id(0).to(tl.int64)
    b, h = head // heads, head % heads
    if HAS_MASK:
        MASK += b * keys
    MASS += head * queries
    COLUMN_MASS += head * keys
    VALUE_NORM += (b * (heads // group) + h // group) * keys
    far = tl.zeros([BLOCK], tl.float64)
    weighted, rows = far, tl.zeros([BLOCK], tl.int32)
    for n in range(0, keys, BLOCK):
        j = n + tl.arange(0, BLOCK)
        column_mass = tl.load(COLUMN_MASS + j, mask=j < keys, other=0.0).to(tl.float64)
        weighted += column_mass * tl.load(VALUE_NORM + j, mask=j < keys, other=0.0)
        if CAUSAL:
            far += j * (tl.load(MASS + j, mask=j < keys, other=0.0) - column_mass)
        if HAS_MASK:
            rows += tokens(MASK, j, keys, HAS_MASK).to(tl.int32)
    if not CAUSAL:
        for n in range(0, queries, BLOCK):
            i = n + tl.arange(0, BLOCK)
            far += tl.load(ROW_DISTANCE + head * queries + i, mask=i < queries, other=0.0)
    seeing = queries
    if HAS_MASK:
        seeing = tl.maximum(tl.sum(rows, 0), 1)
    tl.store(DISTANCE + head, (tl.sum(far, 0) / seeing).to(tl.float32))
    tl.store(WEIGHTED_NORM + head, (tl.sum(weighted, 0) / seeing).to(tl.float32))
