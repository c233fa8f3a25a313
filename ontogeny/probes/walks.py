"""Attention as a Markov chain: how soon a walk from query to key keeps meeting the same tokens (arXiv 2402.13512)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import WALKS, Trace
from ontogeny.probes.capture.walks import MOVES, SEED, WALKS_A_HEAD
from ontogeny.probes.probe import ProbeSettings, mean_where, variable

PAPER = "2402.13512"


@dataclass(frozen=True)
class WalksProbe:
    """The entropy of the tokens that seeded walks along a head's attention meet."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({WALKS})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """`walk_entropy` (B, L, H, M), NaN where a walk comes to a row without keys."""
        entropies = [layer.walk_entropy for layer in trace.layers if layer.walk_entropy is not None]
        return {"walk_entropy": torch.stack(entropies, dim=1)}

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variable `walk_entropy`, mean over sequences."""
        entropy = arrays["walk_entropy"]
        variables = {
            "walk_entropy": variable(
                "layer head moves",
                mean_where(~np.isnan(entropy), entropy),
                "entropy of the tokens met in the first moves of a walk along the attention, mean over walks and "
                "sequences",
                "nats",
                PAPER,
            )
        }
        _, layers, heads, _ = entropy.shape
        coordinates = {"layer": np.arange(layers), "head": np.arange(heads), "moves": np.array(MOVES)}
        return xr.Dataset(variables, coordinates, {"walks_a_head": WALKS_A_HEAD, "walk_seed": SEED})
