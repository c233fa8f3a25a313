"""Order statistics; on a CPU by numpy, which sorts and selects some ten times as fast as torch and finds the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def lower_median(values: Tensor) -> Tensor:
    """The lower median along the last axis, to the bit that of `torch.median`; `values` are free of NaN."""
    if values.device.type != "cpu":
        return values.median(dim=-1).values
    middle = (values.shape[-1] - 1) // 2
    # Copied, or else the whole partition lives as long as its middle.
    return torch.from_numpy(np.partition(values.numpy(), middle, axis=-1)[..., middle].copy())


def descending(values: Tensor) -> Tensor:
    """Values sorted along the last axis, the largest first."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)
