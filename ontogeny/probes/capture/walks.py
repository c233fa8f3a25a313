"""Attention as a Markov chain: where one ends who follows it from query to key (arXiv 2402.13512).

A walk starts at the last token. At position i it moves to key j with the probability that row i of the map gives j,
and from there on. Where the winner takes all, the entropy of the tokens that it has met so far falls as it goes on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WALKS_A_HEAD = 16
MOVES = (4, 16, 64)
SEED = 20240213


def walk_entropy(attention: Tensor, ids: Tensor, valid: Tensor) -> Tensor:
    """Entropy in nats of the tokens met in the first 4, 16 and 64 moves, mean over 16 walks: (B, H, 3).

    `attention` (B, H, T, T), `ids` (B, T), `valid` (B, T) False at padding. The random numbers are the same for every
    head, layer and sequence, so that no number depends on the batch. NaN where a walk comes to a row without keys.
    """
    batch, heads, length, _ = attention.shape
    sums = attention.double().cumsum(-1)
    reached = sums / sums[..., -1:]  # exactly 1 from the last key on, which no draw reaches
    draws = np.random.default_rng(SEED).random((max(MOVES), WALKS_A_HEAD))
    last = length - 1 - valid.flip(1).int().argmax(1)
    place = last.view(-1, 1, 1).expand(batch, heads, WALKS_A_HEAD)
    lost = torch.zeros(batch, heads, dtype=torch.bool, device=ids.device)
    met = []
    for draw in torch.from_numpy(draws).to(ids.device):
        row = reached.gather(2, place[..., None].expand(-1, -1, -1, length))
        lost |= row[..., -1].isnan().any(-1)
        place = (row <= draw[:, None]).sum(-1)
        met.append(ids[:, None].expand(-1, heads, -1).gather(2, place))
    tokens = torch.stack(met, dim=-1)
    entropies = [_entropy_of_counts(tokens[..., :moves]).mean(-1) for moves in MOVES]
    return torch.stack(entropies, dim=-1).masked_fill(lost[..., None], torch.nan).float()


def _entropy_of_counts(tokens: Tensor) -> Tensor:
    """The entropy of the frequencies of what the last axis holds, in nats, float64."""
    share = (tokens[..., :, None] == tokens[..., None, :]).double().mean(-1)
    return -share.log().mean(-1)
