"""Massive activations: the largest magnitudes of the residual stream, where they sit, and how they stand out."""

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

MASSIVE_THRESHOLD = 100.0
MASSIVE_MULTIPLE = 1000.0

PAPER = "2402.17762"
RATIO_PAPER = "2508.03616"


@dataclass(frozen=True)
class MassiveProbe:
    """The top three |h| at every depth, their median, their ratio, and Sun's criterion (arXiv 2402.17762)."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({RESIDUAL})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Arrays (B, L + 1, 3) for the top three, (B, L + 1) for the median."""
        names = ("top_activation", "top_position", "top_dimension", "median_activation")
        return {name: torch.stack([getattr(depth, name) for depth in trace.depths], dim=1) for name in names}

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `massive` in docs/dataset.md, per sequence but for `massive_rate`."""
        top, median = arrays["top_activation"], arrays["median_activation"]
        largest = top[..., 0]
        massive = is_massive(largest, median)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = largest / median
        ranked = "sequence depth rank"
        variables = {
            "top_activation": variable(ranked, top, "largest magnitudes of the residual stream", "1", PAPER),
            "top_position": variable(ranked, arrays["top_position"], "position of the magnitude", "tokens", PAPER),
            "top_dimension": variable(ranked, arrays["top_dimension"], "dimension of the magnitude", "1", PAPER),
            "median_activation": variable(
                "sequence depth", median, "median magnitude of the residual stream", "1", PAPER
            ),
            "massive_ratio": variable("sequence depth", ratio, "largest over median magnitude", "1", RATIO_PAPER),
            "massive_rate": variable(
                "depth", massive.mean(axis=0), "share of sequences with a massive activation", "1", PAPER
            ),
        }
        sequences, depths, ranks = top.shape
        coordinates = {"sequence": np.arange(sequences), "depth": np.arange(depths), "rank": np.arange(1, ranks + 1)}
        constants = {"massive_threshold": MASSIVE_THRESHOLD, "massive_multiple": MASSIVE_MULTIPLE}
        return xr.Dataset(variables, coordinates, constants)


def is_massive(largest: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Sun's criterion: above 100 and at least 1000 times the median (arXiv 2402.17762, section 2)."""
    return (largest > MASSIVE_THRESHOLD) & (largest >= MASSIVE_MULTIPLE * median)
