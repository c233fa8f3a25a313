"""The norm of W_O v: what a key's value adds to the residual stream, per query head.

No architecture's names are known here. The output projection of a layer is the one linear map inside its block that
is handed the attention's output as it is: the same memory, unchanged since, or the same numbers in another precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ontogeny.probes.capture.order import on_cpu

EXACT = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Attended:
    """A layer's attention output, on its way to the projection, and the values that it was made of."""

    layer: int
    output: Tensor
    before: int | Tensor
    value: Tensor
    heads: int

    @classmethod
    def of(cls, layer: int, output: Tensor, value: Tensor, heads: int) -> _Attended:
        """Holding the output keeps its memory from being used again, so that an address tells it from other tensors.

        Torch counts how often a tensor was changed in place, but not in inference mode: a copy tells there.
        """
        return cls(layer, output, output.clone() if output.is_inference() else output._version, value, heads)

    def reaches(self, given: Tensor) -> bool:
        """Whether `given` is the output, reshaped or cast at most."""
        if given.numel() != self.output.numel() or given.device != self.output.device or not given.is_contiguous():
            return False
        if given.dtype == self.output.dtype:
            return given.data_ptr() == self.output.data_ptr() and self._unchanged()
        # As adapters do whose precision is another than the model's.
        return given.is_floating_point() and torch.equal(given.view(-1), self.output.view(-1).to(given.dtype))

    def _unchanged(self) -> bool:
        if isinstance(self.before, Tensor):
            return torch.equal(self.before, self.output)
        return self.output._version == self.before


class UpdateNorms:
    """Takes the norms of W_O v of each layer of a pass, where the projection can be seen."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        inside = dict.fromkeys(module for block in blocks for module in block.modules())
        self.linear = [module for module in inside if isinstance(module, nn.Linear | Conv1D)]
        self.begin()

    def begin(self) -> None:
        """A pass begins; what an unfinished one left is dropped."""
        self.norms: dict[int, list[Tensor | str]] = {}
        self._attended: _Attended | None = None

    def attended(self, layer: int, output: Tensor, value: Tensor, heads: int) -> None:
        """The attention of `layer` hands on `output` (B, T, H, dv), mixed of `value` (B, Hkv, T, dv)."""
        self._attended = _Attended.of(layer, output, value, heads)
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
    """The norms (B, H, T) of what the output projection makes of each head's `value` (B, Hkv, T, dv), see below.

    Or, where the module is no linear map of all heads, the reason why there are none.
    """
    weight = _matrix(projection)
    inputs = heads * value.shape[-1]
    if weight is None or weight.shape[1:] != (inputs,):
        return f"the output projection is a {type(projection).__name__} without a plain matrix of {inputs} columns"
    return projected_norm(weight, value, heads)


def projected_norm(weight: Tensor, value: Tensor, heads: int) -> Tensor:
    """||W_O v|| (B, H, T), each head's columns of `weight` (d, H dv) applied to its `value` (B, Hkv, T, dv).

    By each head's Gram matrix, which costs H times less than the projection itself; in float64, where squaring loses
    nothing that float32 could hold. Source: value-state drains, arXiv 2410.13835.
    """
    by_head = weight.double().unflatten(1, (heads, -1)).permute(1, 2, 0)
    gram = torch.bmm(by_head, by_head.mT)
    batch, shared, length, _ = value.shape
    squared = []
    # A sequence at a time stays in the caches of a CPU: three times as fast there.
    for some in value.split(1 if on_cpu(value) else batch):
        v = some.transpose(0, 1).double().flatten(1, 2)
        if shared < heads:
            v = v.repeat_interleave(heads // shared, 0)
        squared.append(torch.linalg.vecdot(torch.bmm(v, gram), v).view(heads, -1, length))
    norm = torch.cat(squared, 1).transpose(0, 1).clamp_min(0).sqrt()
    return norm.to(torch.float64 if value.dtype == torch.float64 else torch.float32)


def _matrix(projection: nn.Module) -> Tensor | None:
    """The weight (outputs, inputs) of a linear map, None where it computes in another way than by its weight alone.

    Quantised maps do: they scale or unpack what they hold, or have a forward of their own.
    """
    weight = getattr(projection, "weight", None)
    plain = type(projection).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in vars(projection)
    if not plain or not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter):
        return None
    if weight.dtype not in EXACT or weight.is_meta:
        return None
    return weight.T if isinstance(projection, Conv1D) else weight
