"""Attention in plain torch, a block of query rows at a time, on any device.

A block's scores are exponentiated, used for the output and for every statistic, and dropped before the next block: peak
extra memory is a few such blocks, whatever the length. Keys that no row of a block may see are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.stats import AttentionStats

BLOCK_ROWS = 64
BLOCK_SCORES = 2**20
FLOOR = -1e30


def blocked_attention(inputs: AttentionInputs) -> AttentionStats:
    """Attention and its statistics in float32, or in float64 for float64 input."""
    problem = _Problem(inputs)
    sums = _Sums.empty(problem)
    units_at_once = max(1, BLOCK_SCORES // (BLOCK_ROWS * problem.group * problem.keys))
    for first in range(0, problem.units, units_at_once):
        units = slice(first, min(first + units_at_once, problem.units))
        for start in range(0, problem.queries, BLOCK_ROWS):
            block = slice(start, min(start + BLOCK_ROWS, problem.queries))
            _attend_block(problem, sums, units, block, problem.seen_from(block))
    return sums.finish(problem)


class _Problem:
    """The inputs, with the B sequences and Hkv key heads flattened into `units` of `group` query heads each."""

    def __init__(self, inputs: AttentionInputs) -> None:
        self.batch, self.heads, self.queries, _ = inputs.q.shape
        self.kv_heads, self.keys = inputs.k.shape[1:3]
        self.group, self.units = inputs.group, self.batch * self.kv_heads
        self.dtype = torch.float64 if inputs.q.dtype == torch.float64 else torch.float32
        self.scale, self.causal = inputs.scale, inputs.causal
        self.window, self.softcap = inputs.window, inputs.softcap
        self.rows, self.columns = inputs.rows, inputs.columns
        self.q = inputs.q.reshape(self.units, self.group, self.queries, -1)
        self.k = inputs.k.reshape(self.units, self.keys, -1)
        self.v = inputs.v.reshape(self.units, self.keys, -1)
        self.mask = None if inputs.mask is None else inputs.mask.bool()
        self.sinks = self.bias = None
        if inputs.sinks is not None:
            self.sinks = inputs.sinks.to(self.dtype).view(self.kv_heads, self.group).repeat(self.batch, 1)
        if inputs.bias is not None:
            whole = inputs.bias.expand(self.batch, self.heads, self.queries, self.keys)
            self.bias = whole.unflatten(1, (self.kv_heads, self.group))

    def seen_from(self, block: slice) -> slice:
        """The keys that some row of the block may see."""
        low = 0 if self.window is None else max(0, block.start - self.window + 1)
        return slice(low, block.stop if self.causal else self.keys)

    def scores(self, units: slice, block: slice, seen: slice) -> Tensor:
        """Masked scores (units, group, rows, keys) of one block; hidden keys hold -inf."""
        q = self.q[units, :, block].flatten(1, 2).to(self.dtype)
        k = self.k[units, seen].to(self.dtype)
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(self.scale)
        scores = scores.view(q.shape[0], self.group, -1, k.shape[1])
        if self.softcap is not None:
            scores.div_(self.softcap).tanh_().mul_(self.softcap)
        unit = torch.arange(units.start, units.stop, device=scores.device)
        if self.bias is not None:
            scores += self.bias[unit // self.kv_heads, unit % self.kv_heads, :, block, seen].to(self.dtype)
        hidden = self._hidden(unit, block, seen)
        return scores if hidden is None else scores.masked_fill_(hidden, -torch.inf)

    def _hidden(self, unit: Tensor, block: slice, seen: slice) -> Tensor | None:
        """Which scores of a block to hide, broadcastable to (units, group, rows, keys); None: not one."""
        hidden = None
        if self.causal:
            i = torch.arange(block.start, block.stop, device=unit.device)[:, None]
            j = torch.arange(seen.start, seen.stop, device=unit.device)[None, :]
            hidden = j > i
            if self.window is not None:
                hidden = hidden | (i - j >= self.window)
        if self.mask is not None:
            valid = self.mask[unit // self.kv_heads]
            padding = ~(valid[:, block, None] & valid[:, None, seen])[:, None]
            hidden = padding if hidden is None else hidden | padding
        return hidden

    def visible_rows(self) -> Tensor:
        """For every key the number of valid query rows that may see it, (B, 1, S)."""
        device = self.q.device
        if not self.causal:
            if self.mask is None:
                return torch.full((self.batch, 1, self.keys), self.queries, dtype=self.dtype, device=device)
            return (self.mask * self.mask.sum(1, keepdim=True)).to(self.dtype)[:, None]
        valid = (
            self.mask if self.mask is not None else torch.ones(self.batch, self.keys, dtype=torch.bool, device=device)
        )
        before = torch.nn.functional.pad(valid.cumsum(1), (1, 0))
        first = torch.arange(self.keys, device=device)
        end = (first + (self.window or self.keys)).clamp_max(self.keys)
        return ((before[:, end] - before[:, first]) * valid).to(self.dtype)[:, None]


@dataclass
class _Sums:
    """What the blocks write into; the leading axes are (units, group)."""

    output: Tensor
    lse: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor
    distance: Tensor
    column_mass: Tensor
    rows: Tensor | None
    columns: Tensor | None

    @classmethod
    def empty(cls, problem: _Problem) -> _Sums:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(problem.units, problem.group, *shape, dtype=problem.dtype, device=problem.q.device)

        per_row = ("lse", "entropy", "row_max", "participation", "mass", "distance")
        return cls(
            output=zeros(problem.queries, problem.v.shape[-1]).to(problem.q.dtype),
            **{name: zeros(problem.queries) for name in per_row},
            column_mass=zeros(problem.keys),
            rows=None if problem.rows is None else zeros(len(problem.rows), problem.keys),
            columns=None if problem.columns is None else zeros(problem.queries, len(problem.columns)),
        )

    def finish(self, problem: _Problem) -> AttentionStats:
        def heads(x: Tensor) -> Tensor:
            return x.view(problem.batch, problem.heads, *x.shape[2:])

        visible_rows = problem.visible_rows().expand(-1, problem.heads, -1)
        valid = problem.queries if problem.mask is None else problem.mask.sum(1, keepdim=True)
        rows_with_keys = torch.as_tensor(valid, dtype=problem.dtype, device=problem.q.device).clamp_min(1)
        return AttentionStats(
            output=heads(self.output),
            lse=heads(self.lse),
            entropy=heads(self.entropy),
            row_max=heads(self.row_max),
            participation=heads(self.participation),
            mass=heads(self.mass),
            column_mass=heads(self.column_mass),
            visible_rows=visible_rows,
            distance=heads(self.distance).sum(-1) / rows_with_keys,
            rows=None if self.rows is None else heads(self.rows),
            columns=None if self.columns is None else heads(self.columns),
        )


def _attend_block(problem: _Problem, sums: _Sums, units: slice, block: slice, seen: slice) -> None:
    scores = problem.scores(units, block, seen)
    largest = scores.amax(-1, keepdim=True)
    top = largest if problem.sinks is None else torch.maximum(largest, problem.sinks[units, :, None, None])
    top = top.clamp_min(FLOOR)
    scores -= top
    weights = scores.exp()
    normaliser = weights.sum(-1, keepdim=True)
    visible = largest > -torch.inf
    scores.clamp_min_(FLOOR)
    energy = torch.linalg.vecdot(weights, scores)[..., None]
    squares = torch.linalg.vecdot(weights, weights)[..., None]
    if problem.sinks is not None:
        sink_score = problem.sinks[units, :, None, None] - top
        sink_weight = sink_score.exp()
        normaliser = normaliser + sink_weight
        energy = energy + sink_weight * sink_score
        squares = squares + sink_weight.square()
    normaliser = torch.where(visible, normaliser, 1)
    inverse = visible / normaliser
    logarithm = normaliser.log()

    weights *= inverse
    mixed = torch.bmm(weights.flatten(1, 2), problem.v[units, seen].to(problem.dtype))
    sums.output[units, :, block] = mixed.view(*weights.shape[:3], -1).to(sums.output.dtype)
    sums.column_mass[units, :, seen] += weights.sum(-2)
    sums.lse[units, :, block] = torch.where(visible, top + logarithm, 0).squeeze(-1)
    sums.entropy[units, :, block] = torch.where(visible, logarithm - energy * inverse, 0).squeeze(-1)
    sums.row_max[units, :, block] = torch.where(visible, (largest - top).exp() * inverse, 0).squeeze(-1)
    sums.participation[units, :, block] = torch.where(visible, normaliser.square() / squares, 0).squeeze(-1)
    sums.mass[units, :, block] = weights.sum(-1)
    _keep_distance(problem, sums, weights, units, block, seen)
    if problem.rows is not None and sums.rows is not None:
        _keep_rows(problem.rows, sums.rows, weights, units, block, seen)
    if problem.columns is not None and sums.columns is not None:
        _keep_columns(problem.columns, sums.columns, weights, units, block, seen)


def _keep_distance(problem: _Problem, sums: _Sums, weights: Tensor, units: slice, block: slice, seen: slice) -> None:
    """Each row's mean |i - j|: for a causal row i mass - sum_j j p, a product with one vector."""
    i = torch.arange(block.start, block.stop, device=weights.device, dtype=weights.dtype)
    j = torch.arange(seen.start, seen.stop, device=weights.device, dtype=weights.dtype)
    if problem.causal:
        offset = j - block.start
        distance = (i - block.start) * sums.mass[units, :, block] - weights @ offset
    else:
        distance = torch.linalg.vecdot(weights, (i[:, None] - j[None, :]).abs())
    sums.distance[units, :, block] = distance


def _keep_rows(wanted: Tensor, rows: Tensor, weights: Tensor, units: slice, block: slice, seen: slice) -> None:
    slots = ((wanted >= block.start) & (wanted < block.stop)).nonzero().squeeze(1)
    rows[units, :, slots, seen] = weights[:, :, wanted[slots] - block.start]


def _keep_columns(wanted: Tensor, columns: Tensor, weights: Tensor, units: slice, block: slice, seen: slice) -> None:
    slots = ((wanted >= seen.start) & (wanted < seen.stop)).nonzero().squeeze(1)
    columns[units, :, block, slots] = weights[..., wanted[slots] - seen.start]
