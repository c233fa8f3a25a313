"""The least time that the two passes can take on a GPU whose limits are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ontogeny.bench.cases import AttentionCase


@dataclass(frozen=True)
class Limits:
    """Operations a second: bfloat16 multiply-adds counted as two, and exponentials."""

    matrix: float
    exponential: float


# Measured on each: a bfloat16 product of 8192 x 8192 matrices, and exp2 on every multiprocessor.
LIMITS = {
    "H100": Limits(matrix=783e12, exponential=4.17e12),
    "H200": Limits(matrix=790e12, exponential=3.87e12),
}


def least_seconds(case: AttentionCase, device_name: str) -> float | None:
    """Pass F: two products and an exponential a score; pass C: one of each.

    None for a device of unknown limits, and for dtypes other than the 16-bit ones that they were measured in.
    """
    limits = next((found for name, found in LIMITS.items() if name in device_name), None)
    if limits is None or case.dtype not in (torch.bfloat16, torch.float16):
        return None
    reach = case.length if case.window is None else min(case.window, case.length)
    scores = case.batch * case.heads * (case.length * reach - reach * (reach - 1) / 2)
    product, exponential = 2 * case.head_size * scores / limits.matrix, scores / limits.exponential
    return max(2 * product, exponential) + max(product, exponential)
