"""What the registered attention function computes: the one place where it is configured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ontogeny.kernels.attention import Implementation
from ontogeny.kernels.inputs import MaskMod, Output


@dataclass(frozen=True)
class AttentionSettings:
    """Arguments that the kernels are given in every layer; `attention_stats` tells what they mean.

    `sinks` (L, H) have a row for each layer, which is given that alone.
    """

    mechanism: str = "softmax"
    sinks: Tensor | float | None = None
    mask_mod: MaskMod | None = None
    impl: Implementation = "auto"
    output: Output = "fused"

    def describe(self) -> dict[str, str]:
        """What a dataset says of attention that is not the model's own."""
        sinks = "" if self.sinks is None else f" with sinks {_described(self.sinks)}"
        described = {"mechanism": f"{self.mechanism}{sinks}"}
        if self.mask_mod is not None:
            described["mask_mod"] = getattr(self.mask_mod, "__qualname__", repr(self.mask_mod))
        return described


def _described(sinks: Tensor | float) -> str:
    return f"of shape {tuple(sinks.shape)}" if isinstance(sinks, Tensor) else f"{sinks:g}"
