"""The statistics of a whole attention map, one line a formula."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.stats import AttentionStats


def map_statistics(
    attention: Tensor, visible: Tensor, values: Tensor, output: Tensor, sink: Tensor | None = None
) -> AttentionStats:
    """Statistics of `attention` (B, H, T, S) in its own precision, `lse` aside.

    `visible`: bool, broadcastable to the map; `values` (B, H, S, dv); `sink` (B, H, T, 1): the share of a sink logit.
    """
    everything = attention if sink is None else torch.cat([attention, sink], dim=-1)
    total = everything.sum(-1, keepdim=True)
    p = everything / torch.where(total > 0, total, 1)
    squares = p.square().sum(-1)
    visible = visible.expand(attention.shape)
    rows = visible.any(-1).to(attention.dtype).sum(-1).clamp_min(1)
    i = torch.arange(attention.shape[2], device=attention.device)[:, None]
    j = torch.arange(attention.shape[3], device=attention.device)[None, :]
    norm = torch.linalg.vector_norm(values, dim=-1)
    return AttentionStats(
        output=output,
        entropy=-(p * torch.where(p > 0, p, 1).log()).sum(-1),
        row_max=attention.amax(-1),
        participation=torch.where(squares == 0, 0.0, 1 / torch.where(squares == 0, 1, squares)),
        mass=attention.sum(-1),
        column_mass=attention.sum(-2),
        visible_rows=visible.to(attention.dtype).sum(-2),
        distance=(attention * (i - j).abs()).sum((-1, -2)) / rows,
        value_norm=norm,
        value_weighted_norm=(attention * norm[:, :, None, :]).sum((-1, -2)) / rows,
    )
