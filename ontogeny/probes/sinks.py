"""Attention sinks: keys that receive far more attention than their share, and the shape of each head's attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import ATTENTION, Trace
from ontogeny.probes.capture.support import CLASS_LENGTH, SHARE, sampled_rows
from ontogeny.probes.probe import ProbeSettings, Variable, lower_median, mean_where, variable
from ontogeny.probes.scores import rows_needed, sink_scores

EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.8)
NO_SINK = -1
NO_ROW = -1
CLASS_BOUNDS = (1 / 2, 1 / 8, 1 / 32)
CLASS_MEANINGS = "undefined I_global_average II_large_metastable III_medium_metastable IV_near_single_pattern"

PAPER = "2410.10781"
CLASS_PAPER = "2008.02217"
ACT_PAPER = "2406.15765"
FIRST_PAPER = "2504.02732"

ACT_MULTIPLE = 5.0


@dataclass(frozen=True)
class SinksProbe:
    """Sink score and rate (arXiv 2410.10781), top sinks, and each head's entropy, support and class."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({ATTENTION})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Arrays (B, L, H), with a last axis of P key positions (`sink_score`, `act_sink`) or R rows (`support`).

        NaN stands for what a sequence does not have: a key that no row sees, a row that sees no key.
        """
        scores = sink_scores(trace)
        top = scores.alpha.masked_fill(~scores.eligible, -1.0).max(dim=-1)
        found = scores.eligible.any(-1)
        support = torch.stack([layer.support for layer in trace.layers], dim=1)
        row_length = torch.stack([layer.row_length for layer in trace.layers], dim=1)
        tokens = torch.stack([layer.tokens for layer in trace.layers], dim=1)[..., None, None]
        empty, seeing = row_length == 0, (scores.visible > 0).any(-1)
        per_head = {
            name: torch.stack([getattr(layer, name) for layer in trace.layers], dim=1).where(seeing, torch.nan)
            for name in ("entropy", "row_max", "participation", "mass", "distance", "first_share")
        }
        kept = slice(self.settings.positions)
        return {
            "sink_score": scores.alpha[..., kept],
            "act_sink": (scores.alpha > ACT_MULTIPLE / tokens)[..., kept],
            "top_sink_position": top.indices.where(found, NO_SINK).to(torch.int32),
            "top_sink_score": top.values.where(found, torch.nan),
            "support": support.float().masked_fill(empty, torch.nan),
            "support_share": (support / row_length.clamp_min(1)).masked_fill(
                empty | (tokens < CLASS_LENGTH), torch.nan
            ),
            **per_head,
        }

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `sinks` in docs/dataset.md: means over the sequences with the key; top sinks of each."""
        score = arrays["sink_score"]
        there = ~np.isnan(score)
        rate = np.stack([mean_where(there, score > epsilon) for epsilon in EPSILONS])
        where, each = "layer head position", "sequence layer head"
        support = np.nan_to_num(lower_median(arrays["support"], axis=(0, 3)), nan=NO_ROW).astype(np.int32)
        variables = {
            "sink_score": variable(
                where, mean_where(there, score), "attention a key receives per row that sees it", "1", PAPER
            ),
            "sink_rate": variable(
                f"epsilon {where}", rate, "share of sequences with a sink score above epsilon", "1", PAPER
            ),
            "act_sink_rate": variable(
                where,
                mean_where(there, arrays["act_sink"]),
                "share of sequences with a sink score above 5 / tokens",
                "1",
                ACT_PAPER,
            ),
            "first_token_share": _per_head(arrays["first_share"], "attention on the first token", "1", FIRST_PAPER),
            "top_sink_position": variable(
                each, arrays["top_sink_position"], "key with the highest sink score", "tokens", PAPER, none=NO_SINK
            ),
            "top_sink_score": variable(each, arrays["top_sink_score"], "highest sink score", "1", PAPER),
            "attention_entropy": _per_head(arrays["entropy"], "entropy of a row's attention", "nats"),
            "attention_max": _per_head(arrays["row_max"], "largest attention in a row", "1"),
            "participation_ratio": _per_head(arrays["participation"], "effective number of keys in a row", "tokens"),
            "attention_mass": _per_head(arrays["mass"], "attention of a row on its keys", "1"),
            "attention_distance": _per_head(arrays["distance"], "distance between query and key", "tokens"),
            "support_90": variable(
                "layer head", support, "keys that hold 0.90 of a row's attention", "tokens", CLASS_PAPER, none=NO_ROW
            ),
            "head_class": variable(
                "layer head",
                head_classes(arrays["support_share"], self.settings.length),
                "Hopfield class of the head",
                "1",
                CLASS_PAPER,
                flag_values=list(range(5)),
                flag_meanings=CLASS_MEANINGS,
            ),
        }
        sequences, layers, heads, positions = score.shape
        coordinates = {
            "sequence": np.arange(sequences),
            "layer": np.arange(layers),
            "head": np.arange(heads),
            "position": np.arange(positions),
            "epsilon": np.array(EPSILONS),
        }
        constants = {
            "top_sink_rows_needed": int(rows_needed(torch.tensor(self.settings.length))),
            "act_sink_multiple": ACT_MULTIPLE,
            "support_share": SHARE,
            "head_class_bounds": list(CLASS_BOUNDS),
            "head_class_length": CLASS_LENGTH,
            "support_rows": list(sampled_rows(self.settings.length)),
        }
        return xr.Dataset(variables, coordinates, constants)


def head_classes(share: np.ndarray, length: int) -> np.ndarray:
    """Classes I to IV as 1 to 4 from k / N, share (sequences, L, H, rows) -> int8 (L, H); 0 below 256 tokens.

    Rows that are NaN do not count, and where all are so the class is 0.
    With kbar the median of k / N: I above 1/2, II above 1/8, III above 1/32, else IV (arXiv 2008.02217).
    """
    if length < CLASS_LENGTH:
        return np.zeros(share.shape[1:3], dtype=np.int8)
    median = lower_median(share, axis=(0, 3))
    classes = 1 + np.sum([median <= bound for bound in CLASS_BOUNDS], axis=0)
    return np.where(np.isnan(median), 0, classes).astype(np.int8)


def _per_head(values: np.ndarray, long_name: str, units: str, source: str = PAPER) -> Variable:
    mean = mean_where(~np.isnan(values), values)
    return variable("layer head", mean, f"{long_name}, mean over rows and sequences", units, source)
