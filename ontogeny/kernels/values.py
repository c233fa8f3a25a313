"""What follows from a key's column mass: the distance that attention spans, and the values that it moves."""

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


def causal_distance(mass: Tensor, column_mass: Tensor, seeing: Tensor) -> Tensor:
    """sum_i i mass_i - sum_j j column_mass_j over the rows that see a key, in float64; (B, H, T) -> (B, H)."""
    i = torch.arange(mass.shape[-1], dtype=torch.float64, device=mass.device)
    return ((mass.double() - column_mass.double()) @ i / seeing.clamp_min(1)).to(mass.dtype)
