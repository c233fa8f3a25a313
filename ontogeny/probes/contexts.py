"""Contextual mapping: whether equal tokens in different contexts have different states (arXiv 1912.10077)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import CONTEXTS, Trace
from ontogeny.probes.probe import ProbeSettings, mean_where, variable

PAPER = "1912.10077"


@dataclass(frozen=True)
class ContextsProbe:
    """Distances between the states of equal tokens at two positions of a sequence, by depth."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({CONTEXTS})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Arrays (B, L + 1): the smallest and the mean distance of a sequence, NaN where no token comes twice."""
        return {
            name: torch.stack([getattr(depth, name) for depth in trace.depths], dim=1)
            for name in ("context_nearest", "context_mean")
        }

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `contexts` in docs/dataset.md, over the sequences in which some token comes twice."""
        nearest, mean = arrays["context_nearest"], arrays["context_mean"]
        there = ~np.isnan(nearest)
        relative = "relative to the mean norm of the two"
        least = np.where(there, nearest, np.inf).min(axis=0)
        variables = {
            "context_distance_min": variable(
                "depth",
                np.where(there.any(axis=0), least, np.nan),
                f"smallest distance between states of equal tokens in different contexts, {relative}",
                "1",
                PAPER,
            ),
            "context_distance": variable(
                "depth",
                mean_where(there, mean),
                f"distance between states of equal tokens in different contexts, {relative}, mean over pairs, then "
                "over sequences",
                "1",
                PAPER,
            ),
            "context_sequences": variable(
                "depth", there.sum(axis=0), "sequences in which some token comes twice", "1", PAPER
            ),
        }
        return xr.Dataset(variables, {"depth": np.arange(nearest.shape[1])})
