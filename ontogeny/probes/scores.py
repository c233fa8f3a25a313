"""Sink scores of every key, which more than one probe reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import Trace


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


def sink_scores(trace: Trace) -> SinkScores:
    """The scores of one pass. Raises OntogenyError where layers differ in their number of heads."""
    heads = sorted({layer.column_mass.shape[1] for layer in trace.layers})
    if len(heads) > 1:
        raise OntogenyError(
            f"the layers have between {heads[0]} and {heads[-1]} heads: expected the same number in every layer; "
            "scan with --probes massive"
        )
    visible = torch.stack([layer.visible_rows for layer in trace.layers], dim=1)
    mass = torch.stack([layer.column_mass for layer in trace.layers], dim=1)
    needed = rows_needed(torch.stack([layer.tokens for layer in trace.layers], dim=1))[..., None, None]
    alpha = (mass / visible.clamp_min(1)).masked_fill(visible == 0, torch.nan)
    return SinkScores(alpha, visible, visible >= needed)


def rows_needed(tokens: Tensor) -> Tensor:
    """How many query rows must see a key before it may be a top sink, or a waiver, by the sequence's own tokens."""
    return (-(-tokens // 4)).clamp_min(16)
