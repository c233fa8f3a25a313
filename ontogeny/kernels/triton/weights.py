"""The weights of the mechanisms that weigh each key by itself, from scores and the row's threshold."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """sigmoid, and its logarithm to base 2, of x in units of log 2."""
    decay = tl.exp2(-tl.abs(x))
    return tl.where(x < 0, decay, 1.0) / (1.0 + decay), tl.where(x < 0, x, 0.0) - tl.log2(1.0 + decay)


@triton.jit
def relu(x):
    """max(x, 0), and its logarithm to base 2, or 0 where it is 0. NaN stays NaN, as it would not in `tl.maximum`."""
    weight = tl.where(x < 0, 0.0, x)
    return weight, tl.log2(tl.where(weight > 0, weight, 1.0))


@triton.jit
def unnormalised(scores, threshold, MECHANISM: tl.constexpr):
    """Weights and their logarithms to base 2. ReLU's are n times what they stand for: see `rows.finish`."""
    if MECHANISM == "sigmoid":
        return sigmoid(scores - threshold)
    return relu(scores)
