# mypy: disable-error-code="no-untyped-def"
"""The running sums of a row, and the statistics that they amount to.

Softmax is computed online: with m the running maximum, in units of log 2, and p = 2^(s - m) the sums are l = sum p,
u = sum p (s - m) and w = sum p^2. When m moves to m', with a = 2^(m - m'): u <- a (u + (m - m') l), l <- a l,
w <- a^2 w. At the end the entropy is ln l - u / l, the largest weight 1 / l, the participation l^2 / w.

The other mechanisms have no m: p is the weight itself, u = sum p log p, and the same formulas hold of the row divided
by its mass l.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
# Where m starts: finite, for inf - inf is NaN, and above HIDDEN, so that 2^(HIDDEN - m) is 0 from the start.
FLOOR: tl.constexpr = tl.constexpr(-1e29)
# What weights are multiplied by before they are squared: float32 has no square of 1e-20.
BOOST: tl.constexpr = tl.constexpr(2.0**32)


@triton.jit
def softmax_step(s, unit, m, l, u, w, top, SINK: tl.constexpr):
    """The weights of a tile of scores s * unit, what older weights shrink to, and the sums moved on."""
    highest = tl.max(s, 1) * unit
    moved = tl.maximum(m, highest)
    shift = m - moved
    shrink = tl.exp2(shift)
    z = s * unit - moved[:, None]
    p = tl.exp2(z)
    u = shrink * (u + shift * l) + tl.sum(p * z, 1)
    l = shrink * l + tl.sum(p, 1)
    w = shrink * shrink * w + tl.sum(p * p, 1)
    if SINK:  # m may be the sink's
        top = tl.maximum(top, highest)
    return p, shrink, moved, l, u, w, top


@triton.jit
def unnormalised_step(p, log_p, l, u, w, top):
    """The sums moved on by a tile of weights."""
    boosted = p * BOOST
    return l + tl.sum(p, 1), u + tl.sum(p * log_p, 1), w + tl.sum(boosted * boosted, 1), tl.maximum(top, tl.max(p, 1))


@triton.jit
def finish(m, l, u, w, top, sink, threshold, some, MECHANISM: tl.constexpr):
    """lse, entropy, row_max, participation, mass, and what a sum over p is multiplied by; all 0 without `some`."""
    if MECHANISM == "softmax" or MECHANISM == "softmax_sink":
        result = _finish_softmax(m, l, u, w, top, sink, some, MECHANISM == "softmax_sink")
    else:
        result = _finish_unnormalised(l, u, w, top, threshold, some, MECHANISM)
    lse, entropy, row_max, participation, mass, share = result
    # A maximum forgets NaN; a sum does not.
    row_max = tl.where(mass == mass, row_max, mass)
    return (
        tl.where(some, lse, 0.0),
        tl.where(some, entropy, 0.0),
        tl.where(some, row_max, 0.0),
        tl.where(some, participation, 0.0),
        tl.where(some, mass, 0.0),
        tl.where(some, share, 0.0),
    )


@triton.jit
def _finish_softmax(m, l, u, w, top, sink, some, SINK: tl.constexpr):
    l, w = tl.where(some, l, 1.0), tl.where(some, w, 1.0)
    total, highest = l, m
    if SINK:
        # Only here, so that `mass` is the keys' own sum and no difference.
        z = sink - m
        p = tl.exp2(z)
        total, u, w = l + p, u + tl.where(p > 0, p * z, 0.0), w + p * p
        highest = top
    share = 1.0 / total
    entropy = (tl.log2(total) - u * share) * LN2
    return (m + tl.log2(total)) * LN2, entropy, tl.exp2(highest - m) * share, total * total / w, l * share, share


@triton.jit
def _finish_unnormalised(l, u, w, top, threshold, some, MECHANISM: tl.constexpr):
    share = l * 0.0 + 1.0
    if MECHANISM == "relu":
        share = share / threshold
    none = l == 0
    safe = tl.where(none, 1.0, l)
    boosted = safe * BOOST
    entropy = tl.where(none, 0.0, (tl.log2(safe) - u / safe) * LN2)
    participation = tl.where(none, 0.0, boosted * boosted / tl.where(none, 1.0, w))
    return l, entropy, top * share, participation, l * share, share
