"""From a layer's statistics to what a trace keeps of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ontogeny.kernels import AttentionStats
from ontogeny.kernels.maps import map_statistics
from ontogeny.probes.capture.queries import Queries
from ontogeny.probes.capture.routing import AskedOfLayer
from ontogeny.probes.capture.support import RealRows, support_size
from ontogeny.probes.capture.trace import AttentionTrace
from ontogeny.probes.capture.walks import walk_entropy


def reduce_attention(stats: AttentionStats, queries: Queries, rows: Tensor, whole: Tensor | None) -> AttentionTrace:
    """Means over the query rows that see a key, and the support of the sampled rows.

    `rows` (B, H, U, T): the map's rows `queries.sampled.asked`; `whole`: the map, where it is to be kept.
    """
    per_row = torch.stack([stats.entropy, stats.row_max, stats.participation, stats.mass])
    entropy, row_max, participation, mass = per_row.sum(-1) / queries.seeing
    return AttentionTrace(
        column_mass=stats.column_mass,
        visible_rows=stats.visible_rows,
        value_norm=stats.value_norm,
        entropy=entropy,
        row_max=row_max,
        participation=participation,
        mass=mass,
        distance=stats.distance,
        first_share=stats.column_mass.gather(-1, queries.first).squeeze(-1) / queries.seeing,
        support=support_size(queries.sampled.pick(rows)),
        row_length=queries.row_length,
        tokens=queries.tokens,
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
        Queries.of(valid, rows, seen[:, :, rows.asked], seen.any(-1).sum(-1)),
        rows=attention[:, :, rows.asked],
        whole=attention if asked.keep_map else None,
    )
    return replace(
        trace,
        columns=attention[..., list(asked.columns)] if asked.columns else None,
        walk_entropy=None if asked.walk_ids is None else walk_entropy(attention, asked.walk_ids, valid),
    )
