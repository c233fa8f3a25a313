"""Sink scores of every key, which more than one probe reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.probes.capture import Trace
from ontogeny.probes.experiment import UnavailableError

NO_SINK = -1


@dataclass(frozen=True)
class SinkScores:
    """`alpha` (B, L, H, T): the attention a key receives over the number of rows that see it (arXiv 2410.10781).

    It is NaN for keys that no row sees, such as padding. `visible` counts these rows. `eligible` tells the keys with
    rows enough to be called a sink or a waiver: late keys rest on few rows, and a head that looks at the previous token
    would make sinks of the last ones.
    """

    alpha: Tensor
    visible: Tensor
    eligible: Tensor

    def top(self) -> tuple[Tensor, Tensor]:
        """The highest score of the eligible keys and its key, both (B, L, H); NaN and -1 where no key is eligible."""
        score, key = self.alpha.masked_fill(~self.eligible, -1.0).max(dim=-1)
        found = self.eligible.any(-1)
        return score.where(found, torch.nan), key.where(found, NO_SINK)


def sink_scores(trace: Trace) -> SinkScores:
    """The scores of one pass. Raises UnavailableError where layers differ in their number of heads."""
    heads = sorted({layer.column_mass.shape[1] for layer in trace.layers})
    if len(heads) > 1:
        raise UnavailableError(
            f"the layers have between {heads[0]} and {heads[-1]} heads: expected the same number in every layer; "
            "probes of the residual stream, such as massive, do without"
        )
    visible = torch.stack([layer.visible_rows for layer in trace.layers], dim=1)
    mass = torch.stack([layer.column_mass for layer in trace.layers], dim=1)
    needed = rows_needed(torch.stack([layer.tokens for layer in trace.layers], dim=1))[..., None, None]
    alpha = (mass / visible.clamp_min(1)).masked_fill(visible == 0, torch.nan)
    return SinkScores(alpha, visible, visible >= needed)


def rows_needed(tokens: Tensor) -> Tensor:
    """How many query rows must see a key before it may be a top sink, or a waiver, by the sequence's own tokens."""
    return (-(-tokens // 4)).clamp_min(16)
