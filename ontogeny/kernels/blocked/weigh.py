"""A block's scores become its attention weights, and each row's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.kernels.blocked.problem import Block, Problem
from ontogeny.kernels.mechanisms import ScoredRows

FLOOR = -1e30


@dataclass(frozen=True)
class Weighed:
    """`weights` (units, group, rows, keys), and for each row (units, group, rows) what `AttentionStats` tells of it."""

    weights: Tensor
    threshold: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor


def weigh(problem: Problem, block: Block) -> Weighed:
    """The weights of one block and its rows' numbers; a row that sees no key holds 0."""
    if problem.inputs.mechanism.has_lse:
        return _softmax(problem, block)
    return _by_mechanism(problem, block)


def _softmax(problem: Problem, block: Block) -> Weighed:
    """torch's fused softmax of scores less their maximum, so that entropy needs no logarithm of a weight."""
    scores = problem.scores(block, FLOOR)
    top = scores.amax(-1, keepdim=True)
    scores -= top
    weights = scores.softmax(-1)
    top = top.squeeze(-1)
    row_max = weights.amax(-1)
    log_normaliser = -row_max.log()
    energy = scores.mul_(weights).sum(-1)
    participation = torch.linalg.vector_norm(weights, dim=-1).pow_(-2)
    mass = row_max * 0 + 1  # NaN where the row is
    rows = Weighed(weights, top + log_normaliser, log_normaliser - energy, row_max, participation, mass)
    if problem.sinks is not None:
        rows = _share_with_sink(rows, problem.sinks[block.units])
    return _without_empty(problem, block, rows, top <= FLOOR / 2) if problem.may_hide_rows else rows


def _share_with_sink(rows: Weighed, sinks: Tensor) -> Weighed:
    """The same rows when a sink logit (units, group, 1) takes its part of them."""
    lse = torch.logaddexp(rows.threshold, sinks)
    log_share, log_rest = rows.threshold - lse, sinks - lse
    share, rest = log_share.exp(), log_rest.exp()
    return Weighed(
        rows.weights.mul_(share[..., None]),
        lse,
        share * (rows.entropy - log_share) - torch.where(rest == 0, 0, rest * log_rest),
        rows.row_max * share,
        1 / (share.square() / rows.participation + rest.square()),
        share,
    )


def _by_mechanism(problem: Problem, block: Block) -> Weighed:
    scores = problem.scores(block, -torch.inf)
    empty = scores.amax(-1) == -torch.inf
    scores.masked_fill_(empty[..., None], 0)
    mechanism = problem.inputs.mechanism
    threshold = mechanism.threshold(ScoredRows(scores, problem.key_counts[block.units]))
    weights = mechanism.weight(scores, threshold)
    mass = weights.sum(-1)
    some = torch.where(mass == 0, 1, mass)
    squares = weights.square().sum(-1)
    rows = Weighed(
        weights,
        threshold.squeeze(-1),
        torch.where(mass == 0, 0, some.log() + torch.special.entr(weights).sum(-1) / some),
        weights.amax(-1),
        mass.square() / torch.where(squares == 0, 1, squares),
        mass,
    )
    return _without_empty(problem, block, rows, empty)


def _without_empty(problem: Problem, block: Block, rows: Weighed, empty: Tensor) -> Weighed:
    """The same rows, with 0 where there is no key to see or the query is padding."""
    padding = problem.padding_rows(block)
    if padding is not None:
        empty = empty | padding
    if not bool(empty.any()):
        return rows
    per_row = (rows.threshold, rows.entropy, rows.row_max, rows.participation, rows.mass)
    return Weighed(rows.weights.masked_fill_(empty[..., None], 0), *(x.masked_fill(empty, 0) for x in per_row))
