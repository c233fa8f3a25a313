"""The specification: float64, whole maps, one line a formula. Everything faster is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.stats import AttentionStats


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> AttentionStats:
    """Attention and its statistics in float64, differentiable; arguments as `attention_stats` has them."""
    groups = q.shape[1] // k.shape[1]
    q64, k64, v64 = (x.double() for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)))
    visible = _visible(q, k, causal, window, mask)

    scores = q64 @ k64.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.double()
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is not None:
        sink_column = sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink_column], dim=-1)

    seen = visible.any(-1).expand(scores.shape[:3])
    scores = scores.masked_fill(~seen[..., None], 0.0)
    lse = scores.logsumexp(-1) * seen
    p = scores.softmax(-1) * seen[..., None]
    attention = p[..., : k.shape[2]]

    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    return AttentionStats(
        output=(attention @ v64).to(q.dtype),
        lse=lse,
        entropy=-(p * torch.where(p > 0, p, 1).log()).sum(-1),
        row_max=attention.amax(-1),
        participation=torch.where(seen, 1 / p.square().sum(-1).clamp_min(1e-300), 0.0),
        mass=attention.sum(-1),
        column_mass=attention.sum(-2),
        visible_rows=visible.double().sum(-2).expand(*attention.shape[:2], -1),
        distance=(attention * (i - j).abs()).sum((-1, -2)) / seen.double().sum(-1).clamp_min(1),
        rows=None if rows is None else attention[:, :, rows],
        columns=None if columns is None else attention[..., columns],
    )


def _visible(q: Tensor, k: Tensor, causal: bool, window: int | None, mask: Tensor | None) -> Tensor:
    """Which key each query may see: bool, broadcastable to (B, 1, T, S)."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    visible = (j <= i) if causal else torch.ones(1, 1, dtype=torch.bool, device=q.device).expand(i.shape[0], j.shape[1])
    if window is not None:
        visible = visible & (i - j < window)
    visible = visible[None, None]
    if mask is not None:
        visible = visible & mask[:, None, None, :] & mask[:, None, :, None]
    return visible.expand(q.shape[0], 1, -1, -1)
