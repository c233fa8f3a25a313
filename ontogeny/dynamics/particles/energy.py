"""The energy that SA and USA climb, and the share of pairs that have met (arXiv 2312.10794, 2410.06833)."""

from __future__ import annotations

from torch import Tensor

MET = 0.999


def energy(cosines: Tensor, beta: Tensor) -> Tensor:
    """E_beta = sum_ij exp(beta (<x_i, x_j> - 1)) / (2 beta n^2), (B,), of cosines (B, n, n) and `beta` (B, 1, 1)."""
    return ((cosines - 1) * beta).exp().mean((-2, -1)) / (2 * beta[:, 0, 0])


def clustered(cosines: Tensor) -> Tensor:
    """The share of pairs i < j with <x_i, x_j> > 0.999, (B,)."""
    n = cosines.shape[-1]
    met = (cosines > MET).sum((-2, -1)) - (cosines.diagonal(dim1=-2, dim2=-1) > MET).sum(-1)
    return met.to(cosines.dtype) / (n * (n - 1))
