"""The largest number of bytes that tensors hold at once while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object], device: torch.device | None = None) -> int:
    """The peak of bytes in tensors that `run` made, what it returns included."""
    if device is None or device.type != "cuda":
        meter = _Meter()
        with meter:
            run()
        return meter.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class _Meter(TorchDispatchMode):
    """Counts each storage that an operator makes, from its birth until no tensor of those seen shares it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sharing: dict[int, int] = {}
        self.older: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            key = tensor.untyped_storage()._cdata
            if key not in self.sharing:
                self.older.add(key)
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._see(tensor)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.older:
            return
        if key not in self.sharing:
            self.live += size
            self.peak = max(self.peak, self.live)
        self.sharing[key] = self.sharing.get(key, 0) + 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.sharing[key] -= 1
        if not self.sharing[key]:
            del self.sharing[key]
            self.live -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
