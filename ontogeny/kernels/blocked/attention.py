"""The loop over blocks, and what they write into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.kernels.blocked.problem import Block, Problem
from ontogeny.kernels.blocked.weigh import Weighed, weigh
from ontogeny.kernels.chosen import map_columns
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.output import sdpa_output
from ontogeny.kernels.stats import AttentionStats
from ontogeny.kernels.values import value_norm, value_weighted_norm
from ontogeny.kernels.visibility import count_visible


@torch.no_grad()
def blocked_attention(inputs: AttentionInputs) -> AttentionStats:
    """Attention and its statistics in float32, or in float64 for float64 input; not differentiable."""
    problem = Problem(inputs)
    sums = _Sums.empty(problem)
    for block in problem.blocks():
        rows = weigh(problem, block)
        sums.add(problem, block, rows)
    return sums.finish(problem)


@dataclass
class _Sums:
    """What the blocks write into; the leading axes are (units, group)."""

    output: Tensor | None
    threshold: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor
    column_mass: Tensor
    distance: Tensor
    rows: Tensor | None

    @classmethod
    def empty(cls, problem: Problem) -> _Sums:
        def zeros(*shape: int, dtype: torch.dtype = problem.dtype) -> Tensor:
            return torch.zeros(problem.units, problem.group, *shape, dtype=dtype, device=problem.device)

        fused = problem.inputs.output == "fused"
        per_row = ("threshold", "entropy", "row_max", "participation", "mass")
        return cls(
            output=zeros(problem.queries, problem.v.shape[-1], dtype=problem.inputs.q.dtype) if fused else None,
            **{name: zeros(problem.queries) for name in per_row},
            column_mass=zeros(problem.keys),
            distance=zeros(dtype=torch.float64),
            rows=None if problem.inputs.rows is None else zeros(len(problem.inputs.rows), problem.keys),
        )

    def add(self, problem: Problem, block: Block, rows: Weighed) -> None:
        place = (block.units, slice(None), block.rows)
        for name in ("threshold", "entropy", "row_max", "participation", "mass"):
            getattr(self, name)[place] = getattr(rows, name)
        if self.output is not None:
            v = problem.v[block.units, block.keys].to(problem.dtype)
            mixed = torch.bmm(rows.weights.flatten(1, 2), v)
            self.output[place] = mixed.view(*rows.weights.shape[:3], -1).to(self.output.dtype)
        columns = rows.weights.sum(-2)
        whole = self.column_mass[block.units]
        if isinstance(block.keys, slice):
            whole[..., block.keys] += columns
        else:
            whole.index_add_(-1, block.keys, columns)
        self.distance[block.units] += _distance(problem, block, rows, columns)
        if self.rows is not None and problem.inputs.rows is not None:
            _keep_rows(problem.inputs.rows, self.rows[block.units], block, rows.weights)

    def finish(self, problem: Problem) -> AttentionStats:
        def heads(x: Tensor) -> Tensor:
            return x.view(problem.batch, problem.heads, *x.shape[2:])

        inputs = problem.inputs
        visible_rows, seeing = count_visible(inputs)
        column_mass, norm = heads(self.column_mass), value_norm(inputs)
        threshold = heads(self.threshold)
        return AttentionStats(
            output=sdpa_output(inputs) if self.output is None else heads(self.output),
            entropy=heads(self.entropy),
            row_max=heads(self.row_max),
            participation=heads(self.participation),
            mass=heads(self.mass),
            column_mass=column_mass,
            visible_rows=visible_rows.to(problem.dtype),
            distance=(heads(self.distance) / seeing.clamp_min(1)).to(problem.dtype),
            value_norm=norm,
            value_weighted_norm=value_weighted_norm(column_mass, norm, seeing),
            lse=threshold if inputs.mechanism.has_lse else None,
            rows=None if self.rows is None else heads(self.rows),
            columns=None if inputs.columns is None else map_columns(inputs, inputs.columns, threshold[..., None]),
        )


def _keep_rows(wanted: Tensor, kept: Tensor, block: Block, weights: Tensor) -> None:
    slots = ((wanted >= block.rows.start) & (wanted < block.rows.stop)).nonzero().squeeze(1)
    chosen = weights.index_select(2, wanted[slots] - block.rows.start)
    if isinstance(block.keys, slice):
        kept[..., block.keys].index_copy_(2, slots, chosen)
    else:
        kept[:, :, slots[:, None], block.keys] = chosen


def _distance(problem: Problem, block: Block, rows: Weighed, columns: Tensor) -> Tensor:
    """The block's sum of |i - j| under its weights, (units, group) in float64.

    For causal rows that is sum_i i mass_i - sum_j j column_j, counted from the block's first row.
    """
    i = torch.arange(block.rows.stop - block.rows.start, device=problem.device, dtype=torch.float64)
    j = block.key_indices(problem.device).double() - block.rows.start
    if problem.inputs.causal:
        return rows.mass.double() @ i - columns.double() @ j
    return torch.linalg.vecdot(rows.weights, (i[:, None] - j).abs().to(problem.dtype)).sum(-1, dtype=torch.float64)
