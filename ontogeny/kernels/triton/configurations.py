"""Tile sizes, warps and stages, by a plain function: a search would differ from run to run, and on a CPU it fails.

16-bit, heads of up to 128 numbers: the fastest of some 350 that were timed on an H100, in bfloat16 at 512, 2048 and
16384 tokens. Small blocks win, many at once: a block's exponentials wait for its products, and overlap with those of
other blocks. All else is chosen from what ptxas reports for sm_90. float32 has no tensor cores at full precision: small
tiles keep its products in registers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

# What a thread block may take on an H100 or H200, in bytes.
HOPPER_SHARED_MEMORY = 227 * 1024
# From how many keys on a tile of more of them pays for its fewer blocks.
LONG = 8192


@dataclass(frozen=True)
class Configuration:
    """Tiles of `block_m` queries and `block_n` keys; a limit of `registers` a thread makes room for a second block."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    registers: int | None = None

    def launch_options(self) -> dict[str, int | bool | None]:
        """Triton's own arguments. Multiply-adds are fused, which Triton 3.10 no longer does unasked."""
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "maxnreg": self.registers,
            "enable_fp_fusion": True,
        }


def padded(size: int) -> int:
    """The width of the tile that holds a head of this size: a power of two, no less than a product takes."""
    return max(16, 1 << (size - 1).bit_length())


def forward_configuration(
    width: int, dtype: torch.dtype, reach: int, shared_memory: int = HOPPER_SHARED_MEMORY
) -> Configuration:
    """For kernel F; fewer stages where memory is short.

    `width`: of the wider of the key's and the value's tile; `reach`: how many keys a query may see.
    """
    if dtype == torch.float32:
        chosen = Configuration(32, 32, 4, 2) if width <= 64 else Configuration(32, 16, 4 if width <= 128 else 8, 2)
    elif width <= 64:
        chosen = Configuration(64, 128, 4, 3, registers=240) if reach >= LONG else Configuration(64, 64, 4, 3, 128)
    elif width <= 128:
        chosen = Configuration(64, 64, 4, 3, registers=176)
    else:
        chosen = Configuration(128, 32, 8, 2)
    row = width * dtype.itemsize
    return _fitted(chosen, chosen.block_m * row, 2 * chosen.block_n * row, shared_memory)


def column_configuration(width: int, dtype: torch.dtype, shared_memory: int = HOPPER_SHARED_MEMORY) -> Configuration:
    """For kernel C; `width`: of the key's tile."""
    if dtype == torch.float32:
        narrow = Configuration(32, 32, 4, 2) if width <= 64 else Configuration(32, 16, 8, 2)
        chosen = narrow if width <= 128 else Configuration(16, 16, 8, 1)
    else:
        chosen = Configuration(64, 64, 4, 2, registers=128) if width <= 128 else Configuration(64, 128, 8, 2)
    row = width * dtype.itemsize
    return _fitted(chosen, chosen.block_n * row, chosen.block_m * row, shared_memory)


def map_configuration(width: int, rows: int, columns: int, dtype: torch.dtype) -> Configuration:
    """For a chosen part of the map, which mostly has few rows or few columns; `width`: of the key's tile."""
    most = 64 if dtype.itemsize == 2 and width <= 128 else 32
    return Configuration(min(most, padded(rows)), min(most, padded(columns)), 4, 1)


def _fitted(chosen: Configuration, held: int, streamed: int, shared_memory: int) -> Configuration:
    """As many stages of `streamed` bytes as fit beside the tile that is held, and one at least."""
    room = (shared_memory - held) // streamed
    return replace(chosen, num_stages=max(1, min(chosen.num_stages, room)))
