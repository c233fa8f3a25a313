"""Metastability over depth: how many clusters the states form, for how long, and how many directions they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ontogeny.dataset import SELECTIONS
from ontogeny.probes.capture import CLUSTERS, ClusterTrace, Trace
from ontogeny.probes.capture.clusters import BETAS, SAMPLE_SEED, SHUFFLE_SEED, THRESHOLDS, sampled
from ontogeny.probes.capture.selection import OUTLIER_NORM
from ontogeny.probes.probe import ProbeSettings, Variable, mean_where, variable

PLATEAU_PERSISTENCE = 0.9
NONE = -1

MODEL = "2312.10794"
METASTABILITY = "2410.06833"
VALLEY = "2510.06477"
RANK_SOURCE = "Roy and Vetterli 2007"


@dataclass(frozen=True)
class ClustersProbe:
    """Energies, clusters and their plateaus, spectra, each beside what shuffled states give."""

    settings: ProbeSettings
    needs: ClassVar[frozenset[str]] = frozenset({CLUSTERS})

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """The fields of `ClusterTrace` (B, L + 1, S), (B, L + 1, S, 3 or 4), and with `shuffled_` before the name."""
        states = [depth.clusters for depth in trace.depths if depth.clusters is not None]
        baseline = [depth.clusters_shuffled for depth in trace.depths if depth.clusters_shuffled is not None]
        return stacked(states) | {f"shuffled_{name}": values for name, values in stacked(baseline).items()}

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The variables of `clusters` in docs/dataset.md."""
        shuffled = {name.removeprefix("shuffled_"): one for name, one in arrays.items() if name.startswith("shuffled_")}
        variables = geometry(arrays) | counts(arrays) | _longest(arrays)
        variables |= geometry(shuffled, "_shuffled", ", of shuffled states")
        sequences = {"sequence": np.arange(len(arrays["tokens"]))}
        return xr.Dataset(variables, coordinates(arrays) | sequences, constants(self.settings.length))


def stacked(depths: list[ClusterTrace]) -> dict[str, Tensor]:
    """Each field of the traces of all depths, the depth on axis 1."""
    return {name: torch.stack([getattr(one, name) for one in depths], dim=1) for name in vars(depths[0])}


def geometry(arrays: Mapping[str, np.ndarray], suffix: str = "", of: str = "") -> dict[str, Variable]:
    """What is measured of states and of every baseline alike, means over sequences; `suffix` ends the names."""
    share = plateaus(arrays).length > 0
    linked = "selection depth threshold"
    found = {
        "mean_cosine": ("selection depth", arrays["mean_cosine"], "mean cosine of two tokens' states", "1", MODEL),
        "energy": ("selection depth beta", arrays["energy"], "interaction energy of the normalised states", "1", MODEL),
        "cluster_count": (linked, arrays["count"], "clusters of single linkage", "1", METASTABILITY),
        "cluster_persistence": (
            linked,
            arrays["persistence"],
            "adjusted Rand index of the memberships with those at the depth before",
            "1",
            METASTABILITY,
        ),
        "plateau_share": (
            linked,
            np.where(np.isnan(arrays["count"]), np.nan, share),
            "share of sequences in a plateau",
            "1",
            METASTABILITY,
        ),
        "matrix_entropy": ("selection depth", arrays["matrix_entropy"], "matrix-based entropy", "nats", VALLEY),
        "anisotropy": ("selection depth", arrays["anisotropy"], "share of the largest singular value", "1", VALLEY),
    }
    variables = {
        name + suffix: variable(dims, over_sequences(values), long_name + of, units, source)
        for name, (dims, values, long_name, units, source) in found.items()
    }
    variables[f"cluster_count_error{suffix}"] = variable(
        linked, error_over_sequences(arrays["count"]), f"standard error of the clusters{of}", "1", METASTABILITY
    )
    rank = over_sequences(arrays["effective_rank"])
    attributes = {"long_name": f"effective rank of the states{of}", "units": "1", "source": RANK_SOURCE}
    variables[f"effective_rank{suffix}"] = (("selection", "depth"), rank, attributes)
    return variables


def counts(arrays: Mapping[str, np.ndarray], suffix: str = "", of: str = "") -> dict[str, Variable]:
    """How many tokens the numbers of `geometry` are of, means over sequences; shuffled states are as many as states."""
    found = {
        "cluster_tokens": ("tokens", "tokens counted"),
        "paired_tokens": ("paired", "tokens whose pairs are taken"),
    }
    return {
        name + suffix: variable(
            "selection depth", over_sequences(arrays[field].astype(np.float64)), text + of, "tokens", METASTABILITY
        )
        for name, (field, text) in found.items()
    }


def over_sequences(values: np.ndarray) -> np.ndarray:
    """The mean over the sequences that have a value: (sequence, depth, selection, ...) -> (selection, depth, ...)."""
    return mean_where(~np.isnan(values), values).swapaxes(0, 1)


def error_over_sequences(values: np.ndarray) -> np.ndarray:
    """The standard error of that mean, likewise; NaN where fewer than two sequences have a value."""
    there = ~np.isnan(values)
    number = there.sum(axis=0)
    squares = mean_where(there, (values - mean_where(there, values)) ** 2)
    few = number < 2
    return np.where(few, np.nan, np.sqrt(squares / np.where(few, 1, number - 1))).swapaxes(0, 1)


@dataclass(frozen=True)
class Plateaus:
    """At each (sequence, depth, selection, threshold) `start` and `length` of the plateau there, length 0 for none."""

    start: np.ndarray
    length: np.ndarray


def plateaus(arrays: Mapping[str, np.ndarray]) -> Plateaus:
    """Runs of two depths or more with one count of clusters, more than one and fewer than tokens, that persist.

    The number of tokens is that of each depth's paired ones. Persistence holds at every depth of the run but its first.
    """
    count, persistence = arrays["count"], arrays["persistence"]
    depths = count.shape[1]
    several = (count > 1) & (count < arrays["paired"][..., None])
    goes_on = np.zeros(several.shape, bool)  # from the depth before
    same = count[:, 1:] == count[:, :-1]
    goes_on[:, 1:] = several[:, 1:] & several[:, :-1] & same & (persistence[:, 1:] >= PLATEAU_PERSISTENCE)
    start = np.zeros(several.shape, np.int32)
    end = np.full(several.shape, depths - 1, np.int32)
    for depth in range(1, depths):
        start[:, depth] = np.where(goes_on[:, depth], start[:, depth - 1], depth)
    for depth in reversed(range(depths - 1)):
        end[:, depth] = np.where(goes_on[:, depth + 1], end[:, depth + 1], depth)
    length = end - start + 1
    return Plateaus(start, np.where(length > 1, length, 0))


def _longest(arrays: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    """The longest plateau of each sequence, of equal ones the first."""
    found = plateaus(arrays)
    at = found.length.argmax(axis=1)[:, None]
    start, length, count = (
        np.take_along_axis(one, at, axis=1)[:, 0] for one in (found.start, found.length, arrays["count"])
    )
    none = length == 0
    each, longest = "sequence selection threshold", "of the longest plateau"
    return {
        "plateau_start": variable(
            each, np.where(none, NONE, start).astype(np.int32), f"first depth {longest}", "1", METASTABILITY, none=NONE
        ),
        "plateau_length": variable(each, length.astype(np.int32), f"depths {longest}", "1", METASTABILITY),
        "plateau_count": variable(
            each, np.where(none, NONE, count).astype(np.int32), f"clusters {longest}", "1", METASTABILITY, none=NONE
        ),
    }


def coordinates(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of every variable that is a mean over sequences."""
    return {
        "selection": np.array(SELECTIONS, dtype=object),
        "depth": np.arange(arrays["tokens"].shape[1]),
        "beta": np.array(BETAS),
        "threshold": np.array(THRESHOLDS),
    }


def constants(length: int) -> dict[str, str | float | int]:
    """What the numbers rest on, for sequences of `length` tokens."""
    sample = sampled(length)
    return {
        "outlier_norm": OUTLIER_NORM,
        "plateau_persistence": PLATEAU_PERSISTENCE,
        "shuffle_seed": SHUFFLE_SEED,
        "sample_seed": SAMPLE_SEED,
        "clusters_sampled": "no" if sample is None else f"{len(sample)} of {length} tokens",
    }
