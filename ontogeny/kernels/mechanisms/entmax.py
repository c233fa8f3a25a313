"""alpha-entmax: a_j = max((alpha - 1) s_j - tau, 0)^(1 / (alpha - 1)), tau such that the row sums to one.

alpha = 2 is sparsemax (arXiv 1602.02068), alpha = 1.5 lies halfway to softmax (arXiv 1905.05702). Keys below the
threshold get exactly 0, so the participation ratio counts few keys, and a row's entropy may be 0. tau is exact: with
the scores in descending order, the support is the longest run whose own tau lies below its last score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.mechanisms.mechanism import Mechanism, ScoredRows


def sparsemax_threshold(rows: ScoredRows) -> Tensor:
    """tau of sparsemax: (sum of the k largest scores - 1) / k."""
    ordered, top = _descending(rows.scores)
    size = _sizes(ordered)
    tau = (ordered.cumsum(-1) - 1) / size
    return _of_support(tau, ordered > tau) + top


def sparsemax_weight(scores: Tensor, tau: Tensor) -> Tensor:
    """max(score - tau, 0)."""
    return (scores - tau).relu()


def entmax15_threshold(rows: ScoredRows) -> Tensor:
    """tau of 1.5-entmax: the k largest half scores' mean, less sqrt(1 / k - their variance)."""
    ordered, top = _descending(rows.scores / 2)
    size = _sizes(ordered)
    mean = ordered.cumsum(-1) / size
    variance = ordered.square().cumsum(-1) / size - mean.square()
    spare = 1 / size - variance
    possible = spare > 0
    tau = mean - torch.where(possible, spare, 1).sqrt()
    return _of_support(tau, possible & (ordered > tau)) + top


def entmax15_weight(scores: Tensor, tau: Tensor) -> Tensor:
    """max(score / 2 - tau, 0)^2."""
    return (scores / 2 - tau).relu().square()


def _descending(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores from the largest on, less the largest, and the largest; 1 below it no key is in the support."""
    ordered = scores.sort(-1, descending=True).values
    top = ordered[..., :1].detach()
    return (ordered - top).clamp_min(-2), top


def _sizes(ordered: Tensor) -> Tensor:
    return torch.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype, device=ordered.device)


def _of_support(tau: Tensor, inside: Tensor) -> Tensor:
    """tau at the last place of the support, of which there is always one."""
    return tau.gather(-1, inside.sum(-1, keepdim=True).clamp_min(1) - 1)


SPARSEMAX = Mechanism("sparsemax", "1602.02068", sparsemax_threshold, sparsemax_weight)
ENTMAX15 = Mechanism("entmax15", "1905.05702", entmax15_threshold, entmax15_weight)
