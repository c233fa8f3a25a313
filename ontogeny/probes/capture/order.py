"""Order statistics; on a CPU by numpy, which sorts and selects some ten times as fast as torch and finds the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def on_cpu(values: Tensor) -> bool:
    """Whether a CPU holds the values; elsewhere each operation is a launch and each answer a wait."""
    return values.device.type == "cpu"


def largest_and_median(values: Tensor, ranks: int, counted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of values (B, n): the largest and where they are, both (B, ranks), and the lower median (B,).

    Of equal values the first comes first. Values are at least 0 and free of NaN; `counted` (B,) of a row's are meant,
    all where it is None, and the others are -1. On a CPU they are overwritten; on a GPU one sort answers all.
    """
    if on_cpu(values):
        middle = torch.from_numpy(_lower_median(values.numpy(), counted))
        return (*_largest(values, ranks), middle)
    ordered, places = values.sort(dim=1, descending=True, stable=True)
    middle = ordered[:, values.shape[1] // 2] if counted is None else ordered.gather(1, counted[:, None] // 2)[:, 0]
    # Copied, or else all that was sorted lives as long as these.
    return ordered[:, :ranks].clone(), places[:, :ranks].clone(), middle.clone()


def descending(values: Tensor) -> Tensor:
    """Values sorted along the last axis, the largest first."""
    if not on_cpu(values):
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)


def _largest(values: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    found = []
    for _ in range(ranks):
        best = values.max(dim=1, keepdim=True)
        found.append(best)
        values.scatter_(1, best.indices, -1.0)
    return torch.cat([best.values for best in found], dim=1), torch.cat([best.indices for best in found], dim=1)


def _lower_median(values: np.ndarray, counted: Tensor | None) -> np.ndarray:
    size = values.shape[1]
    if counted is None:
        middle = (size - 1) // 2
        return np.partition(values, middle, axis=1)[:, middle].copy()
    middles = [size - 1 - count // 2 for count in counted.tolist()]
    return np.array([np.partition(row, middle)[middle] for row, middle in zip(values, middles, strict=True)])
