"""How many directions raw states take: entropies of the singular values of a depth's state matrix, not centred.

One massive token is a singular value of its own, far above the rest, and makes the valley (arXiv 2510.06477).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def spectral_measures(state: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix entropy in nats, anisotropy and effective rank of the counted states, each (B, S) float64.

    `state` (B, T, d), `counted` (B, S, T) bool. With singular values s_k and p_k = s_k^2 / sum s^2: the entropy of p,
    p_1, and the exponential of the entropy of s / sum s (Roy and Vetterli 2007). NaN where all states are zero.

    The values are roots of the eigenvalues of the Gram matrix on its smaller side, in float64: below about 1e-7 of the
    largest they are rounding, and count as zero.
    """
    _, length, width = state.shape
    largest = state.abs().amax((1, 2), keepdim=True).double()
    scaled = state.double() / largest.masked_fill(largest == 0, 1)
    weight = counted.double()
    if length <= width:
        gram = (scaled @ scaled.mT)[:, None] * weight[..., None] * weight[..., None, :]
    else:
        gram = torch.stack([(scaled * one[..., None]).mT @ scaled for one in weight.unbind(1)], dim=1)
    square = _eigenvalues(gram)
    rounding = gram.shape[-1] * torch.finfo(torch.float64).eps * square[..., -1:]
    square = square.where(square > rounding, 0.0)
    share = square / square.sum(-1, keepdim=True)
    root = square.sqrt()
    rank = _entropy(root / root.sum(-1, keepdim=True)).exp()
    return _entropy(share), share[..., -1], rank


def _eigenvalues(gram: Tensor) -> Tensor:
    """In ascending order; on a CPU by numpy, some one and a half times as fast as torch."""
    if gram.device.type != "cpu":
        return torch.linalg.eigvalsh(gram)
    return torch.from_numpy(np.linalg.eigvalsh(gram.numpy()))


def _entropy(share: Tensor) -> Tensor:
    return torch.special.entr(share).sum(-1)
