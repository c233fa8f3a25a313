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
