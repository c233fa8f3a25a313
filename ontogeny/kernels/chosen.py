"""The parts of the attention map that were asked for by name: rows, and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.mechanisms import ScoredRows
from ontogeny.kernels.visibility import grid, visible


def map_rows(inputs: AttentionInputs, rows: Tensor) -> Tensor:
    """The map's `rows` (R,): (B, H, R, S). One key head at a time, so that little else is in memory."""
    kept = inputs.q.new_empty(*inputs.q.shape[:2], len(rows), inputs.keys, dtype=inputs.working_dtype)
    for first in range(0, inputs.q.shape[1], inputs.group):
        heads = slice(first, first + inputs.group)
        scores, seen = _scores(inputs, heads, rows, None)
        some = seen.any(-1, keepdim=True)
        sinks = None if inputs.sinks is None else inputs.sinks[heads].to(scores.dtype).view(-1, 1, 1)
        scored = ScoredRows(scores.masked_fill(~some, 0), inputs.key_counts(), sinks)
        weights = inputs.mechanism.weight(scored.scores, inputs.mechanism.threshold(scored))
        kept[:, heads] = weights.masked_fill(~some, 0)
    return kept


def map_columns(inputs: AttentionInputs, columns: Tensor, threshold: Tensor) -> Tensor:
    """The map's `columns` (C,): (B, H, T, C), given the mechanism's threshold of every row, (B, H, T, 1)."""
    every = torch.arange(inputs.queries, device=inputs.q.device)
    kept = inputs.q.new_empty(*inputs.q.shape[:3], len(columns), dtype=inputs.working_dtype)
    for first in range(0, inputs.q.shape[1], inputs.group):
        heads = slice(first, first + inputs.group)
        scores, seen = _scores(inputs, heads, every, columns)
        kept[:, heads] = inputs.mechanism.weight(scores, threshold[:, heads]).masked_fill(~seen, 0)
    return kept


def _scores(inputs: AttentionInputs, heads: slice, rows: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores (B, group, R, C) of query heads that share a key head, -inf where hidden; and what is visible.

    `columns` None takes every key.
    """
    dtype = inputs.working_dtype
    b, _, _, j = grid(inputs)
    i, k = rows.view(-1, 1), inputs.k[:, heads.start // inputs.group]
    if columns is not None:
        j, k = columns, k[:, columns]
    scores = inputs.q[:, heads, rows].to(dtype) @ k.to(dtype).transpose(-1, -2)[:, None] * inputs.scale
    if inputs.softcap is not None:
        scores = inputs.softcap * torch.tanh(scores / inputs.softcap)
    if inputs.bias is not None:
        scores = scores + inputs.bias.expand(*inputs.q.shape[:3], inputs.keys)[:, heads, i, j].to(dtype)
    h = torch.arange(heads.start, heads.stop, device=i.device).view(-1, 1, 1)
    seen = visible(inputs, b, h, i, j).expand_as(scores)
    return scores.masked_fill(~seen, -torch.inf), seen
