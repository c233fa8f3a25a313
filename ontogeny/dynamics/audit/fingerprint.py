"""A few seeded projections of a model's weights: alike for the same weights, as far apart as the weights are.

With w all parameters, each once, in a row, the k = 64 numbers are P w. P holds +-1/8 with signs that are fixed once and
for all, so that E||P w||^2 = ||w||^2, over the choice of the signs, and ||P a - P b|| estimates the distance of a and
b. The standard error of the squared norm is sqrt(2/k) = 18 % of it where different blocks of the weights do not
resemble each other, and that of the norm half of this. Source: D. Achlioptas, Database-friendly random projections
(2003), doi:10.1016/S0022-0000(03)00025-4; the lemma is Johnson and Lindenstrauss's.

P is never formed: each parameter, by order of name, is cut into blocks of 65,536; every block goes through one matrix
of signs, and its result gets 64 signs of its own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

PROJECTIONS = 64
BLOCK = 2**16

_BLOCKS_AT_ONCE = 16  # 8 MiB in float64
_OF_BLOCKS = 2**32  # where the counters of the blocks' own signs begin, beyond those of the matrix


@torch.no_grad()
def project_weights(model: nn.Module) -> np.ndarray:
    """The projections (64,) of the model's parameters, float64; tied ones count once, buffers do not.

    On one machine, with one number of threads, the same weights give the same bits.
    """
    parameters = [one for _, one in sorted(model.named_parameters()) if one.is_floating_point()]
    total, done = np.zeros(PROJECTIONS), 0
    for parameter in parameters:
        results = _through_the_matrix(parameter.flatten())
        total += (results * signs(_OF_BLOCKS + done, len(results))).sum(axis=0)
        done += len(results)
    return total / np.sqrt(PROJECTIONS)


def _through_the_matrix(values: Tensor) -> np.ndarray:
    """Each block (the last one may be shorter) times the matrix: (blocks, 64)."""
    matrix, step = _matrix(values.device), BLOCK * _BLOCKS_AT_ONCE
    parts = []
    for start in range(0, values.numel(), step):
        chunk = values[start : start + step].double()
        whole = chunk.numel() // BLOCK * BLOCK
        parts.append(chunk[:whole].view(-1, BLOCK) @ matrix)
        if whole < chunk.numel():
            rest = chunk[whole:]
            parts.append(rest[None] @ matrix[: rest.numel()])
    return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, PROJECTIONS))


@lru_cache(maxsize=1)
def _matrix(device: torch.device) -> Tensor:
    return torch.from_numpy(signs(0, BLOCK)).to(device)


def signs(first: int, count: int) -> np.ndarray:
    """Rows of 64 signs (count, 64), float64, from row `first` on: the bits of SplitMix64 (Steele et al. 2014).

    They are the same on every machine and in every version of every library.
    """
    with np.errstate(over="ignore"):
        z = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    bits = (z[:, None] >> np.arange(PROJECTIONS, dtype=np.uint64)) & np.uint64(1)
    return 1.0 - 2.0 * bits
