"""softmax with a sink logit z: a_j = exp(s_j - lse), lse = log(exp(z) + sum_j exp(s_j)).

z is learned for each head (gpt-oss, arXiv 2508.10925) or constant; z = 0 is softmax plus one. The row's mass is what
the sink leaves to the keys. Entropy and participation are of the keys and the sink together, n + 1 outcomes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.mechanisms.mechanism import Mechanism, ScoredRows
from ontogeny.kernels.mechanisms.softmax import exponential


def logsumexp_with_sink(rows: ScoredRows) -> Tensor:
    """The logarithm of the normaliser of keys and sink, (..., 1)."""
    assert rows.sinks is not None
    return torch.logaddexp(rows.scores.logsumexp(-1, keepdim=True), rows.sinks)


SOFTMAX_SINK = Mechanism("softmax_sink", "2508.10925", logsumexp_with_sink, exponential, has_lse=True, takes_sinks=True)
