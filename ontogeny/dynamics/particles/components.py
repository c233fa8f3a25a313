"""Clusters of particles: connected components of <x_i, x_j> > threshold, at every threshold at once.

The maximum spanning tree of the cosines holds them all: there are as many components at a threshold as there are
edges of the tree that do not exceed it, and one more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linkage(cosines: Tensor) -> Tensor:
    """The cosines along the maximum spanning tree's edges, descending, (B, n - 1), of cosines (B, n, n); Prim's way."""
    batch, n = cosines.shape[:2]
    rows = cosines.reshape(batch * n, n)
    first = torch.arange(0, batch * n, n)
    heights = cosines.new_empty(batch, n - 1)
    outside = torch.zeros_like(cosines[:, 0])  # 0 for a particle that is not in the tree yet, -inf for one that is
    outside[:, 0] = -torch.inf
    nearest = cosines[:, 0] + outside
    for edge in range(n - 1):
        heights[:, edge], joining = nearest.max(-1)
        outside.scatter_(1, joining[:, None], -torch.inf)
        torch.maximum(nearest, rows.index_select(0, first + joining), out=nearest)
        nearest += outside
    return heights.sort(-1, descending=True).values


def counts(heights: Tensor, thresholds: Tensor) -> Tensor:
    """The number of components at each threshold, (B, thresholds), of a linkage (B, n - 1)."""
    return 1 + (heights[:, None, :] <= thresholds[:, None]).sum(-1)


def labels(adjacent: Tensor) -> Tensor:
    """The least index in each particle's component, (B, n), of a symmetric, reflexive adjacency (B, n, n)."""
    n = adjacent.shape[-1]
    found = torch.arange(n).expand(len(adjacent), n)
    while True:
        lower = torch.where(adjacent, found[:, None, :], n).amin(-1)
        if torch.equal(lower, found):
            return found
        found = lower
