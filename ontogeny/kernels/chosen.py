"""The parts of the attention map that were asked for by name: rows, and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.mechanisms import ScoredRows
from ontogeny.kernels.visibility import grid, visible


def working_dtype(inputs: AttentionInputs) -> torch.dtype:
    """float32, or float64 for float64 input."""
    return torch.float64 if inputs.q.dtype == torch.float64 else torch.float32


def map_rows(inputs: AttentionInputs, rows: Tensor) -> Tensor:
    """The map's `rows` (R,): (B, H, R, S)."""
    b, h, _, j = grid(inputs)
    scores, seen = _scores(inputs, b, h, rows.view(-1, 1), j)
    some = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~some, 0)
    sinks = None if inputs.sinks is None else inputs.sinks.to(scores.dtype).view(-1, 1, 1)
    threshold = inputs.mechanism.threshold(ScoredRows(scores, inputs.key_counts(), sinks))
    return inputs.mechanism.weight(scores, threshold) * some


def map_columns(inputs: AttentionInputs, columns: Tensor, threshold: Tensor) -> Tensor:
    """The map's `columns` (C,): (B, H, T, C), given the mechanism's threshold of every row, (B, H, T, 1)."""
    b, h, i, _ = grid(inputs)
    scores, seen = _scores(inputs, b, h, i, columns)
    return inputs.mechanism.weight(scores, threshold).masked_fill(~seen, 0)


def _scores(inputs: AttentionInputs, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the queries i (R, 1) and keys j (C,), -inf where hidden, and what is visible; (B, H, R, C)."""
    dtype = working_dtype(inputs)
    kv_heads = inputs.k.shape[1]
    q = inputs.q[:, :, i[:, 0]].to(dtype).unflatten(1, (kv_heads, inputs.group))
    k = inputs.k[:, :, j].to(dtype)[:, :, None]
    scores = (q @ k.transpose(-1, -2) * inputs.scale).flatten(1, 2)
    if inputs.softcap is not None:
        scores = inputs.softcap * torch.tanh(scores / inputs.softcap)
    if inputs.bias is not None:
        scores = scores + inputs.bias.expand(*inputs.q.shape[:3], inputs.keys)[:, :, i, j].to(dtype)
    seen = visible(inputs, b, h, i, j).expand_as(scores)
    return scores.masked_fill(~seen, -torch.inf), seen
