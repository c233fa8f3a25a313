"""From a layer's statistics to what a trace keeps of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ontogeny.kernels import AttentionStats
from ontogeny.kernels.maps import map_statistics
from ontogeny.probes.capture.routing import AskedOfLayer
from ontogeny.probes.capture.support import RealRows, support_size
from ontogeny.probes.capture.trace import AttentionTrace
from ontogeny.probes.capture.walks import walk_entropy


def reduce_attention(
    stats: AttentionStats, rows: Tensor, row_length: Tensor, seeing: Tensor, valid: Tensor, whole: Tensor | None
) -> AttentionTrace:
    """Means over the query rows that see a key, and the support of the sampled rows.

    `rows` (B, H, R, T): the map's sampled rows; `row_length` (B, H, R): the keys that they may see; `seeing` (B, H):
    how many rows see a key; `valid` (B, T): what is no padding; `whole`: the map, where it is to be kept.
    """
    count = seeing.clamp_min(1)
    first = valid.int().argmax(1)
    return AttentionTrace(
        column_mass=stats.column_mass,
        visible_rows=stats.visible_rows,
        value_norm=stats.value_norm,
        entropy=stats.entropy.sum(-1) / count,
        row_max=stats.row_max.sum(-1) / count,
        participation=stats.participation.sum(-1) / count,
        mass=stats.mass.sum(-1) / count,
        distance=stats.distance,
        first_share=stats.column_mass[torch.arange(len(first), device=first.device), :, first] / count,
        support=support_size(rows),
        row_length=row_length,
        tokens=valid.sum(1, dtype=torch.int32),
        map=whole,
        columns=stats.columns,
    )


def reduce_map(
    attention: Tensor,
    seen: Tensor,
    valid: Tensor,
    values: Tensor,
    output: Tensor,
    asked: AskedOfLayer,
    sink: Tensor | None = None,
) -> AttentionTrace:
    """What a trace keeps of a whole map `attention` (B, H, T, T), which holds 0 where `seen`, bool likewise, is False.

    `valid` (B, T): what is no padding; `values` and `output` (B, H, T, dv): those that the map mixes, and the mixture;
    `sink` (B, H, T, 1): the share of a sink logit.
    """
    rows = RealRows.of(valid)
    trace = reduce_attention(
        map_statistics(attention, seen, values, output, sink),
        rows=rows.pick(attention[:, :, rows.asked]),
        row_length=rows.pick(seen[:, :, rows.asked].sum(-1)),
        seeing=seen.any(-1).sum(-1),
        valid=valid,
        whole=attention if asked.keep_map else None,
    )
    return replace(
        trace,
        columns=attention[..., list(asked.columns)] if asked.columns else None,
        walk_entropy=None if asked.walk_ids is None else walk_entropy(attention, asked.walk_ids, valid),
    )
