"""Secondary sinks: tokens whose state turns, for some blocks, into the first token's direction (arXiv 2512.22213)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import RESIDUAL, Trace
from ontogeny.probes.probe import ProbeSettings, variable

SECONDARY_COSINE = 0.9
NONE = -1

PAPER = "2512.22213"


@dataclass(frozen=True)
class SecondarySinksProbe:
    """How many tokens besides the first point where it points, at every depth, and the one that does so longest."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({RESIDUAL})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Counts (B, L + 1), and of the longest run of blocks position, first block and length, each (B,)."""
        cosine = torch.stack([depth.first_cosine for depth in trace.depths], dim=1)
        first = (~cosine[:, 0].isnan()).int().argmax(-1)
        alike = cosine.abs() > SECONDARY_COSINE  # NaN, at padding, is not
        alike.scatter_(2, first[:, None, None].expand(-1, alike.shape[1], 1), False)
        longest, start = _longest_run(alike[:, 1:])
        lifetime, position = longest.max(dim=-1)
        there = lifetime > 0
        return {
            "count": alike.sum(-1, dtype=torch.int32),
            "position": position.where(there, NONE).to(torch.int32),
            "start": start.gather(1, position[:, None])[:, 0].where(there, NONE).to(torch.int32),
            "lifetime": lifetime.to(torch.int32),
        }

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `secondary` in docs/dataset.md, per sequence."""
        count = arrays["count"]
        longest = "of the secondary sink that lasts longest"
        variables = {
            "secondary_sinks": variable(
                "sequence depth", count, "tokens but the first with |cosine| to it above 0.9", "tokens", PAPER
            ),
            "secondary_position": variable(
                "sequence", arrays["position"], f"position {longest}", "tokens", PAPER, none=NONE
            ),
            "secondary_start": variable("sequence", arrays["start"], f"first block {longest}", "1", PAPER, none=NONE),
            "secondary_lifetime": variable(
                "sequence", arrays["lifetime"], f"blocks in a row {longest}", "blocks", PAPER
            ),
        }
        sequences, depths = count.shape
        coordinates = {"sequence": np.arange(sequences), "depth": np.arange(depths)}
        return xr.Dataset(variables, coordinates, {"secondary_cosine": SECONDARY_COSINE})


def _longest_run(alike: Tensor) -> tuple[Tensor, Tensor]:
    """Length and first block of each token's longest run; alike (B, L, T) -> both (B, T). Of equal ones the first."""
    batch, blocks, tokens = alike.shape
    running = torch.zeros(batch, tokens, dtype=torch.long, device=alike.device)
    longest, start = running.clone(), running.clone()
    for block in range(blocks):
        running = (running + 1) * alike[:, block]
        better = running > longest
        longest = torch.where(better, running, longest)
        start = torch.where(better, block - running + 1, start)
    return longest, start
