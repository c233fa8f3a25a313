"""Which tokens of a depth are counted: all of them, or those that are no sink by place or by norm.

The first token and the few whose norm is far above the rest hold most of the attention and most of a depth's variance
(outlier tokens: arXiv 2309.16588, massive activations: arXiv 2402.17762).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.probes.capture.sphere import norms

OUTLIER_NORM = 5.0


def selections(state: Tensor, valid: Tensor | None) -> Tensor:
    """Which tokens of states (B, T, d) each of `ontogeny.dataset.SELECTIONS` holds: bool (2, B, T).

    `all`: what is no padding, where `valid` (B, T) is True. `without_sinks`: of these, neither the sequence's first nor
    any whose norm is more than `OUTLIER_NORM` times the lower median of their norms.
    """
    everything = torch.ones(state.shape[:2], dtype=torch.bool, device=state.device) if valid is None else valid
    norm = norms(state)
    ranked = norm.masked_fill(~everything, torch.inf).sort(dim=1).values
    median = ranked.gather(1, (everything.sum(1, keepdim=True) - 1).clamp_min(0) // 2)
    later = everything.int().cumsum(1) > 1
    return torch.stack([everything, everything & later & (norm / OUTLIER_NORM <= median)])
