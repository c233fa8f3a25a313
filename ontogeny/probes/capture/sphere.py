"""Norms and directions of states of any magnitude, scaled so that no square overflows or vanishes."""

from __future__ import annotations

import torch
from torch import Tensor


def norms(state: Tensor) -> Tensor:
    """The norms (...) of states (..., d) in float64; 0 for a zero state."""
    scaled, largest = _scaled(state.double())
    return torch.linalg.vector_norm(scaled, dim=-1) * largest[..., 0]


def directions(state: Tensor) -> Tensor:
    """The states (..., d) on the unit sphere; a zero state has no direction and stays zero: its cosines are 0."""
    scaled, _ = _scaled(state)
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / norm.masked_fill(norm == 0, 1)


def _scaled(state: Tensor) -> tuple[Tensor, Tensor]:
    """The states over their largest magnitudes, and these (..., 1)."""
    largest = state.abs().amax(-1, keepdim=True)
    return state / largest.masked_fill(largest == 0, 1), largest
