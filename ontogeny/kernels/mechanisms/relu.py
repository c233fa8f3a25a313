"""ReLU: a_j = max(s_j, 0) / n, n the sequence's number of keys (arXiv 2309.08586).

A row may have no mass at all. Entropy and participation are those of the row divided by its mass, 0 where it has none.
"""

from __future__ import annotations

from torch import Tensor

from ontogeny.kernels.mechanisms.mechanism import Mechanism, ScoredRows


def length(rows: ScoredRows) -> Tensor:
    """n, broadcast to (..., 1)."""
    return rows.keys.to(rows.scores.dtype).expand(*rows.scores.shape[:-1], 1)


def relu(scores: Tensor, n: Tensor) -> Tensor:
    """max(score, 0) / n."""
    return scores.relu() / n


RELU = Mechanism("relu", "2309.08586", length, relu)
