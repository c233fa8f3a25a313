"""softmax: a_j = exp(s_j - lse), lse = log sum_j exp(s_j) (arXiv 1706.03762).

Each row sums to one, so its mass says nothing; entropy and participation are those of the row itself.
"""

from __future__ import annotations

from torch import Tensor

from ontogeny.kernels.mechanisms.mechanism import Mechanism, ScoredRows


def logsumexp(rows: ScoredRows) -> Tensor:
    """The logarithm of the row's normaliser, (..., 1)."""
    return rows.scores.logsumexp(-1, keepdim=True)


def exponential(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(score - lse)."""
    return (scores - lse).exp()


SOFTMAX = Mechanism("softmax", "1706.03762", logsumexp, exponential, has_lse=True)
