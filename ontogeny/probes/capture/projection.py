"""The norm of W_O v: what a key's value adds to the residual stream, per query head.

No architecture's names are known here. The output projection of a layer is the one linear map inside its block that
is handed the attention's output as it is: the same memory, unchanged since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class _Attended:
    """A layer's attention output, on its way to the projection, and the values that it was made of."""

    layer: int
    output: Tensor
    version: int | None
    value: Tensor
    heads: int

    def reaches(self, given: Tensor) -> bool:
        """Whether `given` is the output, reshaped at most."""
        same_place = given.data_ptr() == self.output.data_ptr() and given.numel() == self.output.numel()
        return same_place and given.dtype == self.output.dtype and _version(self.output) == self.version


class UpdateNorms:
    """Takes the norms of W_O v of each layer of a pass, where the projection can be seen."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.linear = [
            module for block in blocks for module in block.modules() if isinstance(module, nn.Linear | Conv1D)
        ]
        self.begin()

    def begin(self) -> None:
        """A pass begins; what an unfinished one left is dropped."""
        self.norms: dict[int, list[Tensor | str]] = {}
        self._attended: _Attended | None = None

    def attended(self, layer: int, output: Tensor, value: Tensor, heads: int) -> None:
        """The attention of `layer` hands on `output` (B, T, H, dv), mixed of `value` (B, Hkv, T, dv)."""
        # Holding the output keeps its memory from being used again, so that an address tells it from other tensors.
        self._attended = _Attended(layer, output, _version(output), value, heads)
        self.norms[layer] = []

    def finish(self) -> list[Tensor] | str:
        """The norms (B, H, T) of every layer, or the reason why they are not there."""
        self._attended = None
        for layer, found in sorted(self.norms.items()):
            if len(found) != 1:
                what = "no linear map" if not found else f"{len(found)} linear maps"
                return f"unavailable: in layer {layer}, {what} read the attention's output as it is, expected one"
            if isinstance(found[0], str):
                return f"unavailable: in layer {layer}, {found[0]}"
        return [one for _, found in sorted(self.norms.items()) for one in found if isinstance(one, Tensor)]

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, the linear maps of the blocks are watched."""
        handles = [module.register_forward_pre_hook(self._before) for module in self.linear]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._attended = None

    def _before(self, linear: nn.Module, args: tuple[Any, ...]) -> None:
        attended = self._attended
        if attended is not None and args and isinstance(args[0], Tensor) and attended.reaches(args[0]):
            self.norms[attended.layer].append(update_norm(linear, attended.value, attended.heads))


def update_norm(projection: nn.Module, value: Tensor, heads: int) -> Tensor | str:
    """||W_O v|| (B, H, T), each head's slice of the output projection applied to its `value` (B, Hkv, T, dv).

    Or, where the module is no linear map of all heads, the reason why there is none. By each head's Gram matrix, which
    costs H times less than the projection itself; in float64, where squaring loses nothing that float32 could hold.
    Source: value-state drains, arXiv 2410.13835.
    """
    weight = getattr(projection, "weight", None)
    inputs = heads * value.shape[-1]
    if isinstance(projection, Conv1D) and isinstance(weight, Tensor):
        weight = weight.T
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.shape[1:] != (inputs,):
        return f"the output projection is a {type(projection).__name__} without a matrix of {inputs} columns"
    by_head = weight.double().unflatten(1, (heads, -1)).permute(1, 2, 0)
    gram = by_head @ by_head.transpose(1, 2)
    group = heads // value.shape[1]
    # A sequence at a time, which stays in the caches of a CPU: three times as fast there.
    squared = []
    for one in value:
        v = one.double().repeat_interleave(group, 0)
        squared.append(torch.linalg.vecdot(v @ gram, v))
    return torch.stack(squared).clamp_min(0).sqrt().to(torch.float64 if value.dtype == torch.float64 else torch.float32)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; inside inference mode torch does not count."""
    return None if tensor.is_inference() else tensor._version
