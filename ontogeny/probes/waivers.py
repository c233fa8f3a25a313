"""Waivers: keys that draw attention and give nothing, because their values are small (arXiv 2407.01601, 2410.13835)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import ATTENTION, VALUES, Trace
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
    needs: ClassVar[frozenset[str]] = frozenset({ATTENTION, VALUES})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Arrays (B, L, H, P): norms over their mean, whether the key is a waiver, and whether a row sees it.

        `update_norm` is among them where the trace has it.
        """
        scores = sink_scores(trace)
        seen = scores.visible > 0
        relative = _relative([layer.value_norm for layer in trace.layers if layer.value_norm is not None], seen)
        waiver = scores.eligible & (scores.alpha > WAIVER_EPSILON) & (relative < WAIVER_VALUE)
        kept = slice(self.settings.positions)
        found = {"value_norm": relative[..., kept], "waiver": waiver[..., kept], "seen": seen[..., kept]}
        updates = [layer.update_norm for layer in trace.layers if layer.update_norm is not None]
        if len(updates) == len(trace.layers):
            found["update_norm"] = _relative(updates, seen)[..., kept]
        return found

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `waivers` in docs/dataset.md, over the sequences that have the key."""
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
        if "update_norm" in arrays:
            variables["update_norm"] = variable(
                where,
                mean_where(seen, arrays["update_norm"]),
                "norm of the value behind the output projection over its mean over positions",
                "1",
                PAPER,
            )
        _, layers, heads, positions = norm.shape
        coordinates = {"layer": np.arange(layers), "head": np.arange(heads), "position": np.arange(positions)}
        return xr.Dataset(variables, coordinates, {"waiver_epsilon": WAIVER_EPSILON, "waiver_value": WAIVER_VALUE})


def _relative(norms: list[Tensor], seen: Tensor) -> Tensor:
    """Norms (B, H, T) of each layer over their mean over the keys that a row sees: (B, L, H, T)."""
    norm = torch.stack(norms, dim=1) * seen
    return norm * seen.sum(-1, keepdim=True) / norm.sum(-1, keepdim=True)
