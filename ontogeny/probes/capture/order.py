"""Order statistics; on a CPU by numpy, which sorts and selects some ten times as fast as torch and finds the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def on_cpu(values: Tensor) -> bool:
    """Whether a CPU holds the values; elsewhere each operation costs a launch, and each question to the device a wait."""
    return values.device.type == "cpu"


def largest_and_median(values: Tensor, ranks: int, counted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of values (B, n), which are overwritten, the largest (B, ranks), where they are, and the lower median.

    Of equal values the first counts as larger. `counted` (B,) tells how many of a row's values there are, the others
    being less than each of them; None where all are there. Values are at least 0, or -1 where they do not count, and
    free of NaN. Without a question to the device: on a GPU one sort answers all.
    """
    if on_cpu(values):
        median = _lower_median(values.numpy(), counted)
        return (*_largest(values, ranks), torch.from_numpy(median))
    ordered, places = values.sort(dim=1, descending=True, stable=True)
    median = ordered[:, values.shape[1] // 2] if counted is None else ordered.gather(1, counted[:, None] // 2)[:, 0]
    # Copied, or else all that was sorted lives as long as these.
    return ordered[:, :ranks].clone(), places[:, :ranks].clone(), median.clone()


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
