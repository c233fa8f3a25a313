"""The running sums of a row, and the statistics that they amount to.

Softmax is computed online: with m the running maximum, in units of log 2, and p = 2^(s - m), the sums are
`total` = sum p, `energy` = sum p (s - m) and `squares` = sum p^2. When m moves to m', with a = 2^(m - m'): energy <-
a (energy + (m - m') total), total <- a total, squares <- a^2 squares. At the end the entropy is log total - energy /
total, the largest weight 1 / total, and the participation total^2 / squares.

The other mechanisms have no m: p is the weight itself and energy = sum p log p. Then the formulas for entropy and
participation are those of the row divided by its mass.
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
def softmax_step(s, unit, m, total, energy, squares, top, SINK: tl.constexpr):
    """The weights of a tile of scores s * unit, what older weights shrink to, and the sums moved on."""
    highest = tl.max(s, 1) * unit
    moved = tl.maximum(m, highest)
    shift = m - moved
    shrink = tl.exp2(shift)
    z = s * unit - moved[:, None]
    p = tl.exp2(z)
    energy = shrink * (energy + shift * total) + tl.sum(p * z, 1)
    total = shrink * total + tl.sum(p, 1)
    squares = shrink * shrink * squares + tl.sum(p * p, 1)
    if SINK:  # m may be the sink's
        top = tl.maximum(top, highest)
    return p, shrink, moved, total, energy, squares, top


@triton.jit
def unnormalised_step(p, log_p, total, energy, squares, top):
    """The sums moved on by a tile of weights."""
    boosted = p * BOOST
    total += tl.sum(p, 1)
    energy += tl.sum(p * log_p, 1)
    squares += tl.sum(boosted * boosted, 1)
    return total, energy, squares, tl.maximum(top, tl.max(p, 1))


@triton.jit
def finish(m, total, energy, squares, top, sink, threshold, some, MECHANISM: tl.constexpr):
    """lse, entropy, row_max, participation, mass, and what a sum over p is multiplied by; all 0 without `some`."""
    total, squares = tl.where(some, total, 1.0), tl.where(some, squares, 1.0)
    if MECHANISM == "softmax":
        lse, entropy, row_max, participation, mass, share = _finish_softmax(m, total, energy, squares, m)
    elif MECHANISM == "softmax_sink":
        lse, entropy, row_max, participation, mass, share = _finish_with_sink(m, total, energy, squares, top, sink)
    else:
        unit = 1.0 / threshold if MECHANISM == "relu" else 1.0
        lse, entropy, row_max, participation, mass, share = _finish_unnormalised(total, energy, squares, top, unit)
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
def _finish_softmax(m, total, energy, squares, top):
    share = 1.0 / total
    log_total = tl.log2(total)
    entropy = (log_total - energy * share) * LN2
    # A GPU rounds m and not the fused products that m is taken from, which can make the total of one key less than 1.
    row_max = tl.minimum(tl.exp2(top - m) * share, 1.0)
    return (m + log_total) * LN2, entropy, row_max, total * total / squares, total * share, share


@triton.jit
def _finish_with_sink(m, total, energy, squares, top, sink):
    """The sink joins the sums only here, so that the keys' mass is a sum of its own and no difference."""
    z = sink - m
    p = tl.exp2(z)
    energy += tl.where(p > 0, p * z, 0.0)
    lse, entropy, row_max, participation, _, share = _finish_softmax(m, total + p, energy, squares + p * p, top)
    return lse, entropy, row_max, participation, total * share, share


@triton.jit
def _finish_unnormalised(total, energy, squares, top, unit):
    """`unit`: the weight that p = 1 stands for."""
    none = total == 0
    safe = tl.where(none, 1.0, total)
    boosted = safe * BOOST
    entropy = tl.where(none, 0.0, (tl.log2(safe) - energy / safe) * LN2)
    # A mass below 1e-28 has no squares even so, and counts no keys.
    participation = boosted / tl.where(squares == 0, 1.0, squares) * boosted
    participation = tl.where(squares == 0, 0.0, participation)
    return total, entropy, top * unit, participation, total * unit, total * 0.0 + unit
