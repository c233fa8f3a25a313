"""Tile sizes, warps and stages: a plain function, for a search would make runs differ and not work everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Configuration:
    """Tiles of `block_m` queries and `block_n` keys; `options` are Triton's own."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        """The arguments of a kernel's launch."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


def padded(size: int) -> int:
    """The size of the tile that holds a head of this size: a power of two, and no less than a product takes."""
    return max(16, 1 << (size - 1).bit_length())


def forward_configuration(size: int, dtype: torch.dtype) -> Configuration:
    """For kernel F; `size`: of the larger of the head's key and value, padded."""
    if dtype == torch.float32:
        return Configuration(64, 32, 4, 2) if size <= 128 else Configuration(32, 16, 4, 1)
    if size <= 64:
        return Configuration(128, 64, 8, 3)
    return Configuration(128, 64, 8, 2)


def column_configuration(size: int, dtype: torch.dtype) -> Configuration:
    """For kernel C."""
    if dtype == torch.float32:
        return Configuration(32, 64, 4, 2) if size <= 128 else Configuration(16, 32, 4, 1)
    return Configuration(64, 128, 8, 3 if size <= 128 else 2)
