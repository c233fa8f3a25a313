"""What the figures and the report read out of a scan's dataset."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from ontogeny.dataset import HasDataset, ratio_of_means
from ontogeny.errors import OntogenyError, UsageError

EPSILON = 0.3
POSITION = 0
WAIVER_VALUE = 0.2
_SUBTITLE_NAME = 48
_PROBES = {  # how the names of a probe's variables begin
    "sinks": ("sink_", "top_sink_", "act_", "first_token", "attention_", "participation_", "support_", "head_class"),
    "waivers": ("value_norm", "update_norm", "waiver_rate"),
    "secondary": ("secondary_",),
    "ablation": ("loss",),
    "effective_beta": ("effective_beta",),
    "clusters": (
        "cluster_",
        "paired_",
        "plateau_",
        "mean_cosine",
        "energy",
        "matrix_entropy",
        "anisotropy",
        "effective_rank",
    ),
    "massive": ("",),
}
_OF_ATTENTION = ("sinks", "waivers")


def dataset_of(scan: xr.Dataset | HasDataset) -> xr.Dataset:
    """The dataset of a scan (or the dataset itself), its checkpoints in the order of their steps where known."""
    dataset = scan if isinstance(scan, xr.Dataset) else scan.dataset
    if "checkpoint" not in dataset.dims or dataset.sizes["checkpoint"] == 0:
        raise OntogenyError(
            "there is nothing to draw: expected a dataset with at least one `checkpoint`, and this one has none; "
            "scan a series first"
        )
    steps = known_steps(dataset)
    return dataset if steps is None else dataset.isel(checkpoint=np.argsort(steps, kind="stable"))


def known_steps(dataset: xr.Dataset) -> np.ndarray | None:
    """The step of every checkpoint, int64; None where any is unknown, or two are the same."""
    if "step" not in dataset.coords:
        return None
    steps = np.atleast_1d(dataset["step"].values).astype(np.int64)
    return steps if steps.min() >= 0 and np.unique(steps).size == steps.size else None


def has_attention(dataset: xr.Dataset) -> bool:
    """Whether attention was captured: without it the dataset has no variable of the probes `sinks` and `waivers`."""
    return not str(dataset.attrs.get("attention", "captured")).startswith("unavailable")


def require(dataset: xr.Dataset, what: str, *names: str) -> None:
    """Raise OntogenyError, with the dataset's own reason, where a variable that `what` is drawn from is missing."""
    missing = [name for name in names if name not in dataset.data_vars]
    if not missing:
        return
    lacks = f"{what} cannot be drawn: the dataset has no `{missing[0]}`"
    probe = next(probe for probe, beginnings in _PROBES.items() if missing[0].startswith(beginnings))
    if probe in _OF_ATTENTION and not has_attention(dataset):
        raise OntogenyError(f"{lacks} (attention {dataset.attrs['attention']}); the residual stream's figures remain")
    raise OntogenyError(f"{lacks}; scan again with the probe `{probe}`, into a new folder")


def sink_rates(dataset: xr.Dataset, epsilon: float = EPSILON, position: int = POSITION) -> xr.DataArray:
    """Sink rate (checkpoint, layer, head) at one threshold and one key position; share of sequences in 0..1.

    Source: arXiv 2410.10781. Raises OntogenyError where it was not measured.
    """
    require(dataset, "the sink rate", "sink_rate")
    rate = pick(pick(dataset["sink_rate"], "epsilon", epsilon), "position", position)
    return rate.transpose("checkpoint", "layer", "head")


def of_key(dataset: xr.Dataset, what: str, name: str, position: int = POSITION) -> xr.DataArray:
    """A variable of every head (checkpoint, layer, head) at one key position. Raises OntogenyError where missing."""
    require(dataset, what, name)
    return pick(dataset[name], "position", position).transpose("checkpoint", "layer", "head")


def waiver_bounds(dataset: xr.Dataset) -> tuple[float, float]:
    """What makes a key a waiver: a sink score above the first, a value norm over its mean below the second."""
    return float(dataset.attrs.get("waiver_epsilon", EPSILON)), float(dataset.attrs.get("waiver_value", WAIVER_VALUE))


def pick(array: xr.DataArray, dim: str, wanted: float) -> xr.DataArray:
    """The part of `array` at one value of a coordinate. Raises UsageError where that was not measured."""
    return array.isel({dim: place_of(array, dim, wanted)})


def place_of(array: xr.DataArray, dim: str, wanted: float) -> int:
    """The place of a value of a coordinate. Raises UsageError where it has none."""
    measured = array[dim].values
    nearest = int(np.abs(measured - wanted).argmin())
    if abs(float(measured[nearest]) - wanted) > 1e-4:
        listed = ", ".join(f"{value:g}" for value in measured)
        raise UsageError(f"{dim} {wanted:g} was not measured: expected one of {listed}")
    return nearest


def massive_ratios(dataset: xr.Dataset) -> xr.DataArray:
    """max|h| / median|h| (checkpoint, depth), the ratio of means over sequences.

    Source: arXiv 2508.03616. Raises OntogenyError where it was not measured.
    """
    require(dataset, "the massive ratio", "top_activation", "median_activation")
    return ratio_of_means(dataset)


def width_of(dataset: xr.Dataset) -> int | None:
    """The width of the residual stream, as the dataset's architecture states it; None where it states none."""
    try:
        return int(json.loads(str(dataset.attrs.get("arch")))["width"])
    except (ValueError, KeyError, TypeError):
        return None


def series_name(dataset: xr.Dataset) -> str:
    """What the series is called, not escaped."""
    return str(dataset.attrs.get("series") or dataset.attrs.get("source") or "unnamed series")


def shorten(text: str, longest: int) -> str:
    """`text`, cut where it is longer than a label may be."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def short_name(dataset: xr.Dataset) -> str:
    """The series' name as a figure's subtitle can hold it, not escaped."""
    return shorten(series_name(dataset), _SUBTITLE_NAME)
