"""Measures the largest number of bytes that tensors hold at once while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Meter(TorchDispatchMode):
    live, peak = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                size = tensor.untyped_storage().nbytes()
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(tensor, self._release, size)
        return result

    def _release(self, size: int) -> None:
        self.live -= size


def peak_bytes(run: Callable[[], object]) -> int:
    """The peak of bytes in tensors that `run` made, on any device."""
    meter = _Meter()
    with meter:
        run()
    return meter.peak
