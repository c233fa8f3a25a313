"""The values that attention moves, from each key's column mass."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.inputs import AttentionInputs


def value_norm(inputs: AttentionInputs) -> Tensor:
    """The Euclidean norm of each key's value at each query head, (B, H, S); float32 at least."""
    norm = torch.linalg.vector_norm(inputs.v, dim=-1, dtype=inputs.working_dtype)
    return norm.repeat_interleave(inputs.group, 1)


def value_weighted_norm(column_mass: Tensor, norm: Tensor, seeing: Tensor) -> Tensor:
    """sum_j column_mass_j ||v_j|| over the rows that see a key; (B, H, S), (B, H, S), (B, H) -> (B, H)."""
    return ((column_mass.double() * norm).sum(-1) / seeing.clamp_min(1)).to(norm.dtype)
