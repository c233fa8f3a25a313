"""The specification: float64, whole maps, one line a formula. Everything faster is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.stats import AttentionStats


def reference_attention(inputs: AttentionInputs) -> AttentionStats:
    """Attention and its statistics in float64, differentiable."""
    q, k = inputs.q.double(), inputs.k.double().repeat_interleave(inputs.group, 1)
    v = inputs.v.double().repeat_interleave(inputs.group, 1)
    visible = _visible(inputs)

    scores = q @ k.transpose(-1, -2) * inputs.scale
    if inputs.softcap is not None:
        scores = inputs.softcap * torch.tanh(scores / inputs.softcap)
    if inputs.bias is not None:
        scores = scores + inputs.bias.double()
    scores = scores.masked_fill(~visible, -torch.inf)
    if inputs.sinks is not None:
        sink_column = inputs.sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink_column], dim=-1)

    seen = visible.any(-1).expand(scores.shape[:3])
    scores = scores.masked_fill(~seen[..., None], 0.0)
    lse = scores.logsumexp(-1) * seen
    p = scores.softmax(-1) * seen[..., None]
    attention = p[..., : k.shape[2]]

    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    return AttentionStats(
        output=(attention @ v).to(inputs.q.dtype),
        lse=lse,
        entropy=-(p * torch.where(p > 0, p, 1).log()).sum(-1),
        row_max=attention.amax(-1),
        participation=torch.where(seen, 1 / p.square().sum(-1).clamp_min(1e-300), 0.0),
        mass=attention.sum(-1),
        column_mass=attention.sum(-2),
        visible_rows=visible.double().sum(-2).expand(*attention.shape[:2], -1),
        distance=(attention * (i - j).abs()).sum((-1, -2)) / seen.double().sum(-1).clamp_min(1),
        rows=None if inputs.rows is None else attention[:, :, inputs.rows],
        columns=None if inputs.columns is None else attention[..., inputs.columns],
    )


def _visible(inputs: AttentionInputs) -> Tensor:
    """Which key each query may see: bool (B, 1, T, S)."""
    batch, _, queries, _ = inputs.q.shape
    keys = inputs.k.shape[2]
    i = torch.arange(queries, device=inputs.q.device)[:, None]
    j = torch.arange(keys, device=inputs.q.device)[None, :]
    visible = torch.ones(batch, 1, queries, keys, dtype=torch.bool, device=inputs.q.device)
    if inputs.causal:
        visible = visible & (j <= i)
    if inputs.window is not None:
        visible = visible & (i - j < inputs.window)
    if inputs.mask is not None:
        valid = inputs.mask.bool()
        visible = visible & valid[:, None, None, :] & valid[:, None, :, None]
    return visible
