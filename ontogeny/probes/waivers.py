"""Waivers: keys that draw attention and give nothing, because their values are small (arXiv 2407.01601, 2410.13835)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import ATTENTION, Trace
from ontogeny.probes.probe import ProbeSettings, mean_where, variable
from ontogeny.probes.scores import sink_scores

WAIVER_EPSILON = 0.3
WAIVER_VALUE = 0.2

PAPER = "2410.13835"
THRESHOLD_PAPER = "2606.08105"


@dataclass(frozen=True)
class WaiversProbe:
    """Value norms relative to their mean over positions, and how often a sink's value has drained."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({ATTENTION})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Arrays (B, L, H, P): the value norm over its mean, whether the key is a waiver, and whether a row sees it."""
        scores = sink_scores(trace)
        seen = scores.visible > 0
        norm = torch.stack([layer.value_norm for layer in trace.layers], dim=1) * seen
        relative = norm * seen.sum(-1, keepdim=True) / norm.sum(-1, keepdim=True)
        waiver = scores.eligible & (scores.alpha > WAIVER_EPSILON) & (relative < WAIVER_VALUE)
        kept = slice(self.settings.positions)
        return {
            "value_norm": relative[..., kept],
            "waiver": waiver[..., kept],
            "seen": seen[..., kept],
        }

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables `value_norm` and `waiver_rate`, over the sequences that have the key."""
        where = "layer head position"
        norm, waiver, seen = arrays["value_norm"], arrays["waiver"], arrays["seen"]
        variables = {
            "value_norm": variable(
                where, mean_where(seen, norm), "value norm over its mean over positions", "1", PAPER
            ),
            "waiver_rate": variable(
                where, mean_where(seen, waiver), "share of sequences in which the key is a waiver", "1", THRESHOLD_PAPER
            ),
        }
        _, layers, heads, positions = norm.shape
        coordinates = {"layer": np.arange(layers), "head": np.arange(heads), "position": np.arange(positions)}
        return xr.Dataset(variables, coordinates, {"waiver_epsilon": WAIVER_EPSILON, "waiver_value": WAIVER_VALUE})
