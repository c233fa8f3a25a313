"""How far heads attend by the likeness of states, and how steeply: an effective beta (arXiv 2312.10794)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.dataset import SELECTIONS
from ontogeny.probes.capture import LOGITS, Trace
from ontogeny.probes.capture.selection import OUTLIER_NORM
from ontogeny.probes.probe import ProbeSettings, mean_where, variable

PAPER = "2312.10794"


@dataclass(frozen=True)
class EffectiveBetaProbe:
    """The slope of a head's logits on the inner products of the normalised states that enter its block."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """`effective_beta` and `effective_beta_r2` (B, S, L, H), float64, NaN where no row counts."""
        slopes = [layer.logit_slope for layer in trace.layers if layer.logit_slope is not None]
        r2 = [layer.logit_r2 for layer in trace.layers if layer.logit_r2 is not None]
        return {"effective_beta": torch.stack(slopes, dim=2), "effective_beta_r2": torch.stack(r2, dim=2)}

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """Both, mean over the sequences that have a number."""
        means = {name: mean_where(~np.isnan(values), values) for name, values in arrays.items()}
        dims, of = "selection layer head", "attention logits on inner products of the normalised states that enter"
        variables = {
            "effective_beta": variable(
                dims, means["effective_beta"], f"slope of {of} the block, within rows, mean over sequences", "1", PAPER
            ),
            "effective_beta_r2": variable(
                dims,
                means["effective_beta_r2"],
                "share of the logits' variance within rows that the slope explains, mean over sequences",
                "1",
                PAPER,
            ),
        }
        _, _, layers, heads = arrays["effective_beta"].shape
        coordinates = {
            "selection": np.array(SELECTIONS, dtype=object),
            "layer": np.arange(layers),
            "head": np.arange(heads),
        }
        return xr.Dataset(variables, coordinates, {"outlier_norm": OUTLIER_NORM})
