"""Massive activations: the largest magnitudes of the residual stream, where they sit, and how they stand out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import RESIDUAL, Trace
from ontogeny.probes.probe import ProbeSettings, Variable, variable

MASSIVE_THRESHOLD = 100.0
MASSIVE_MULTIPLE = 1000.0
FLOAT16_LARGEST = 65504.0
NONE = -1

Numbers = TypeVar("Numbers", np.ndarray, Tensor)

PAPER = "2402.17762"
RATIO_PAPER = "2508.03616"
LIFE_PAPER = "2605.08504"


@dataclass(frozen=True)
class MassiveProbe:
    """The top three |h| at every depth, their median and ratio, and what Sun's criterion (arXiv 2402.17762) says."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({RESIDUAL})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """Arrays (B, L + 1, 3) for the top three, `top_token` among them where ids are known; (B, L + 1) else."""
        names = ("top_activation", "top_position", "top_dimension", "median_activation", "saturated")
        found = {name: torch.stack([getattr(depth, name) for depth in trace.depths], dim=1) for name in names}
        if trace.ids is not None:
            place = found["top_position"].long()
            found["top_token"] = trace.ids[:, None].expand(-1, place.shape[1], -1).gather(2, place).to(torch.int32)
        return found

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `massive` in docs/dataset.md."""
        top = arrays["top_activation"]
        sequences, depths, ranks = top.shape
        coordinates = {"sequence": np.arange(sequences), "depth": np.arange(depths), "rank": np.arange(1, ranks + 1)}
        constants = {"massive_threshold": MASSIVE_THRESHOLD, "massive_multiple": MASSIVE_MULTIPLE}
        return xr.Dataset({**_places(arrays), **_ratios(arrays), **_criterion(arrays)}, coordinates, constants)


def is_massive(largest: Numbers, median: Numbers) -> Numbers:
    """Sun's criterion: above 100 and at least 1000 times the median (arXiv 2402.17762, section 2)."""
    return (largest > MASSIVE_THRESHOLD) & stands_out(largest, median)


def stands_out(largest: Numbers, median: Numbers) -> Numbers:
    """The criterion's second half: at least 1000 times the median, and above 0."""
    return (largest >= MASSIVE_MULTIPLE * median) & (largest > 0)


def first_run(there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the first run of True along the last axis begins, -1 for none, and how long it is, both int32."""
    some = there.any(axis=-1)
    start = there.argmax(axis=-1)
    index = np.arange(there.shape[-1])
    ended = ~there & (index >= start[..., None])
    end = np.where(ended.any(axis=-1), ended.argmax(axis=-1), there.shape[-1])
    return np.where(some, start, NONE).astype(np.int32), np.where(some, end - start, 0).astype(np.int32)


def shared_dimensions(dimensions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of dimensions (sequences, depths, ranks), those that the most sequences name at each depth, most first.

    They and the share of sequences that name them, both (depths, ranks); of equally frequent ones the smaller.
    """
    sequences, depths, ranks = dimensions.shape
    shared, share = np.empty((depths, ranks), dtype=np.int32), np.empty((depths, ranks))
    for depth in range(depths):
        once = np.concatenate([np.unique(named) for named in dimensions[:, depth]])
        named, counts = np.unique(once, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:ranks]
        found = len(order)
        shared[depth] = np.pad(named[order], (0, ranks - found), constant_values=NONE)
        share[depth] = np.pad(counts[order] / sequences, (0, ranks - found))
    return shared, share


def _places(arrays: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    ranked = "sequence depth rank"
    shared, share = shared_dimensions(arrays["top_dimension"])
    largest = "largest magnitudes of the residual stream"
    found = {
        "top_activation": variable(ranked, arrays["top_activation"], largest, "1", PAPER),
        "top_position": variable(ranked, arrays["top_position"], "position of the magnitude", "tokens", PAPER),
        "top_dimension": variable(ranked, arrays["top_dimension"], "dimension of the magnitude", "1", PAPER),
        "shared_dimension": variable(
            "depth rank", shared, "dimensions that most sequences have among their largest", "1", PAPER, none=NONE
        ),
        "shared_dimension_share": variable(
            "depth rank", share, "share of sequences that have the dimension among their largest", "1", PAPER
        ),
    }
    if "top_token" in arrays:
        found["top_token"] = variable(ranked, arrays["top_token"], "token id at the magnitude's position", "1", PAPER)
    return found


def _ratios(arrays: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    largest, median = arrays["top_activation"][..., 0], arrays["median_activation"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = largest / median
        of_means = largest.mean(axis=0, dtype=np.float64) / median.mean(axis=0, dtype=np.float64)
    return {
        "median_activation": variable("sequence depth", median, "median magnitude of the residual stream", "1", PAPER),
        "massive_ratio": variable("sequence depth", ratio, "largest over median magnitude", "1", RATIO_PAPER),
        "massive_ratio_of_means": variable(
            "depth", of_means, "mean of the largest over the mean of the median magnitudes", "1", RATIO_PAPER
        ),
    }


def _criterion(arrays: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    largest, median = arrays["top_activation"][..., 0], arrays["median_activation"]
    massive = is_massive(largest, median)
    onset, lifetime = first_run(massive)
    share = "share of sequences with"
    return {
        "massive_rate": variable("depth", massive.mean(axis=0), f"{share} a massive activation", "1", PAPER),
        "massive_rate_relative": variable(
            "depth",
            stands_out(largest, median).mean(axis=0),
            f"{share} a magnitude of 1000 medians, however small",
            "1",
            PAPER,
        ),
        "massive_onset": variable(
            "sequence", onset, "depth at which a massive activation first appears", "1", LIFE_PAPER, none=NONE
        ),
        "massive_lifetime": variable(
            "sequence", lifetime, "depths in a row with a massive activation, from the first on", "1", LIFE_PAPER
        ),
        "saturation_rate": variable(
            "depth",
            arrays["saturated"].mean(axis=0),
            f"{share} a magnitude of at least half of what the dtype of the computation holds",
            "1",
            PAPER,
        ),
        "float16_overflow_rate": variable(
            "depth",
            (largest > FLOAT16_LARGEST).mean(axis=0),
            f"{share} a magnitude that float16 does not hold",
            "1",
            PAPER,
        ),
    }
