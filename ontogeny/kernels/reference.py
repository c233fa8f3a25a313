"""The specification: float64, whole maps, one line a formula. Everything faster is tested against it."""

from __future__ import annotations

from dataclasses import replace

import torch

from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.maps import map_statistics
from ontogeny.kernels.mechanisms import ScoredRows
from ontogeny.kernels.stats import AttentionStats
from ontogeny.kernels.visibility import grid, visible


def reference_attention(inputs: AttentionInputs) -> AttentionStats:
    """Attention and its statistics in float64, differentiable."""
    q, k = inputs.q.double(), inputs.k.double().repeat_interleave(inputs.group, 1)
    v = inputs.v.double().repeat_interleave(inputs.group, 1)

    scores = q @ k.transpose(-1, -2) * inputs.scale
    if inputs.softcap is not None:
        scores = inputs.softcap * torch.tanh(scores / inputs.softcap)
    if inputs.bias is not None:
        scores = scores + inputs.bias.double()
    seen = visible(inputs, *grid(inputs)).expand_as(scores)
    some = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen, -torch.inf).masked_fill(~some, 0.0)

    sinks = None if inputs.sinks is None else inputs.sinks.double().view(-1, 1, 1)
    threshold = inputs.mechanism.threshold(ScoredRows(scores, inputs.key_counts(), sinks))
    attention = inputs.mechanism.weight(scores, threshold) * some
    sink = None if sinks is None else inputs.mechanism.weight(sinks, threshold) * some

    stats = map_statistics(attention, seen, v, (attention @ v).to(inputs.q.dtype), sink)
    return replace(
        stats,
        lse=threshold.squeeze(-1) * some.squeeze(-1) if inputs.mechanism.has_lse else None,
        rows=None if inputs.rows is None else attention[:, :, inputs.rows],
        columns=None if inputs.columns is None else attention[..., inputs.columns],
    )
