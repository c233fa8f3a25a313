"""The attention problems that are timed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

SUPPORT_ROWS = 16


@dataclass(frozen=True)
class AttentionCase:
    """One shape of causal attention; `padded` hides the first eighth of every other sequence."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    head_size: int
    dtype: torch.dtype
    window: int | None = None
    padded: bool = False

    def __str__(self) -> str:
        grouped = "" if self.kv_heads == self.heads else f"/{self.kv_heads}"
        window = "" if self.window is None else f" window {self.window}"
        dtype = str(self.dtype).removeprefix("torch.")
        padded = " left padding" if self.padded else ""
        return f"B{self.batch} H{self.heads}{grouped} T{self.length} d{self.head_size} {dtype}{window}{padded}"

    def small(self) -> AttentionCase:
        """The same problem at a size that a float64 map of everything is cheap for."""
        length = min(self.length, 192)
        window = None if self.window is None else min(self.window, length // 3)
        return replace(self, batch=min(self.batch, 2), length=length, window=window)

    def inputs(self, device: torch.device, seed: int = 0) -> dict[str, Any]:
        """The arguments of `attention_stats`, random."""
        generator = torch.Generator().manual_seed(seed)

        def random(heads: int) -> Tensor:
            shape = (self.batch, heads, self.length, self.head_size)
            return torch.randn(shape, generator=generator).to(device, self.dtype)

        mask = None
        if self.padded:
            mask = torch.ones(self.batch, self.length, dtype=torch.bool, device=device)
            mask[::2, : self.length // 8] = False
        return {
            "q": random(self.heads),
            "k": random(self.kv_heads),
            "v": random(self.kv_heads),
            "scale": self.head_size**-0.5,
            "causal": True,
            "window": self.window,
            "mask": mask,
            "rows": torch.linspace(0, self.length - 1, SUPPORT_ROWS, device=device).long(),
        }


def default_cases(device: torch.device, dtype: torch.dtype) -> list[AttentionCase]:
    """What `ontogeny bench` times: small on a CPU; on a GPU up to 16384 tokens, at both common head sizes."""
    if device.type != "cuda":
        plain = AttentionCase(4, 12, 12, 1024, 64, dtype)
        fewer = replace(plain, batch=2)
        return [
            plain,
            replace(fewer, kv_heads=3),
            replace(fewer, window=256),
            replace(fewer, padded=True),
            replace(plain, batch=32, length=64),
        ]
    by_length = [
        AttentionCase(batch, 16, 16, length, head_size, dtype)
        for head_size in (64, 128)
        for batch, length in ((32, 512), (8, 2048), (2, 8192), (1, 16384))
    ]
    plain = AttentionCase(8, 32, 32, 2048, 64, dtype)
    return [*by_length, replace(plain, kv_heads=8), replace(plain, window=1024), replace(plain, padded=True)]
