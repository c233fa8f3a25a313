"""sigmoid: a_j = sigmoid(s_j - log n), n the sequence's number of keys (arXiv 2409.04431).

Every key is weighed by itself. A row's mass lies between 0 and n and is a finding, not a constant; entropy and
participation are those of the row divided by its mass.
"""

from __future__ import annotations

from torch import Tensor

from ontogeny.kernels.mechanisms.mechanism import Mechanism, ScoredRows


def log_length(rows: ScoredRows) -> Tensor:
    """log n, broadcast to (..., 1)."""
    return rows.keys.to(rows.scores.dtype).log().expand(*rows.scores.shape[:-1], 1)


def sigmoid(scores: Tensor, log_n: Tensor) -> Tensor:
    """sigmoid(score - log n)."""
    return (scores - log_n).sigmoid()


SIGMOID = Mechanism("sigmoid", "2409.04431", log_length, sigmoid)
