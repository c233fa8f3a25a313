"""Clusters by single linkage: which tokens hang together at each of some thresholds, and how far two partitions agree.

Labels are integers from 1 on; 0 is the label of a token that is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linked(similarity: Tensor, counted: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Labels (B, S, K, T) of the components that pairs of more than each of K thresholds make of the counted tokens.

    `similarity` (B, T, T) is symmetric and at least -1, `counted` (B, S, T) bool: S choices of each sequence's tokens.

    Prim's algorithm for the largest spanning tree visits a component wholly before it leaves it, by the largest edge
    that there is: so a component of any threshold begins wherever that edge is not above it.
    """
    batch, kinds, length = counted.shape
    most = max(1, int(counted.sum(-1).max()))
    sequence = torch.arange(batch, device=counted.device).repeat_interleave(kinds)
    closed = ~counted.flatten(0, 1)
    reach = similarity.new_full(closed.shape, -2.0).masked_fill_(closed, -torch.inf)
    edge, place = [], []
    for _ in range(most):
        nearest, at = reach.max(-1, keepdim=True)
        edge.append(nearest)
        place.append(at)
        closed.scatter_(1, at, True)
        torch.maximum(reach, similarity[sequence, at[:, 0]], out=reach)
        reach.masked_fill_(closed, -torch.inf)
    edges, places = torch.cat(edge, 1).double(), torch.cat(place, 1)
    over = edges.isinf()  # all its tokens have been visited
    bounds = torch.tensor(thresholds, dtype=torch.float64, device=counted.device)[:, None]
    order = ((edges[:, None] <= bounds) & ~over[:, None]).cumsum(-1)
    where = places.masked_fill(over, length)[:, None].expand(-1, len(thresholds), -1)
    labels = order.new_zeros(*order.shape[:2], length + 1).scatter_(2, where, order)
    return labels[..., :length].unflatten(0, (batch, kinds))


def adjusted_rand(one: Tensor, other: Tensor) -> Tensor:
    """The adjusted Rand index of two partitions (..., T), over the tokens counted in both: float64, NaN for under two.

    1 for equal partitions, also where chance would agree as well: all in one cluster, or each in its own.
    """
    both = (one > 0) & (other > 0)
    first, second = one * both, other * both
    joint = first * (one.shape[-1] + 1) + second
    together, in_first, in_second = (_pairs(labels).double() for labels in (joint, first, second))
    tokens = both.sum(-1).double()
    pairs = tokens * (tokens - 1)
    only_first, only_second = in_first - together, in_second - together
    neither = pairs - in_first - only_second
    chance = in_first * (only_first + neither) + in_second * (only_second + neither)
    index = 2 * (together * neither - only_first * only_second) / chance
    same = (only_first == 0) & (only_second == 0)
    return torch.where(same, 1.0, index).masked_fill(tokens < 2, torch.nan)


def _pairs(labels: Tensor) -> Tensor:
    """How many ordered pairs of counted tokens share their label: labels (..., T) -> (...)."""
    ordered = labels.sort(-1).values
    run = (ordered.diff(dim=-1, prepend=ordered[..., :1]) != 0).cumsum(-1)
    size = torch.zeros_like(ordered).scatter_add_(-1, run, (ordered > 0).long())
    return (size * (size - 1)).sum(-1)
