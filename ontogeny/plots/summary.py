"""What emerged, in plain sentences, from the numbers of the dataset alone."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ontogeny.dataset import sound_checkpoints
from ontogeny.plots.axes import checkpoint_labels
from ontogeny.plots.measurements import (
    EPSILON,
    POSITION,
    dataset_of,
    has_attention,
    known_steps,
    massive_ratios,
    of_key,
    sink_rates,
)
from ontogeny.plots.sites import find_sites

EMERGED_RATE = 0.5
EMERGED_GROWTH = 2.0
SHORTEST = 16  # tokens; below it even attention comes near the threshold at position 0
_FALLEN = 0.8


def summarise(dataset: xr.Dataset) -> list[str]:
    """Sentences, plain text (not escaped): sinks, values, massive activations, what came first, secondary sinks.

    A sink counts as emerged where the sink rate of a head exceeds 0.5, its value as drained where the waiver rate does,
    massive activations where the ratio of a depth grows at least twofold. What was not measured is said with the
    dataset's reason. Checkpoints that the audit flags are left out: a late step served early would have everything
    emerge there.
    """
    dataset = dataset_of(dataset)
    sound = sound_checkpoints(dataset)
    if not sound.any():
        return ["The audit flags every checkpoint, so that nothing is said of what emerged."]
    dataset = dataset.isel(checkpoint=sound)
    when = _occasions(dataset)
    parts = []
    if "sink_rate" in dataset:
        parts.append(_sinks(dataset, when))
    elif has_attention(dataset):
        parts.append("attention sinks were not measured: the scan ran without the probe `sinks`")
    else:
        parts.append(f"attention sinks were not measured: attention {dataset.attrs['attention']}")
    if "top_sink_position" in dataset:
        parts.append(_top_sinks(dataset, when))
    if {"value_norm", "waiver_rate"} <= set(dataset.data_vars):
        parts.append(_drain(dataset, when))
    if {"top_activation", "median_activation"} <= set(dataset.data_vars):
        parts.append(_massive(dataset, when))
        if "massive_rate" in dataset:
            parts.append(_criterion(dataset, when))
        if "top_position" in dataset:
            parts.append(_site(dataset, when))
    else:
        parts.append("massive activations were not measured: the scan ran without the probe `massive`")
    parts.extend(_order(dataset, when))
    if "secondary_sinks" in dataset:
        parts.append(_secondary(dataset, when))
    return [f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in parts]


def _occasions(dataset: xr.Dataset) -> list[str]:
    """For each checkpoint "at step 512", or "at checkpoint main"; of a single one "here"."""
    labels = checkpoint_labels(dataset)
    if len(labels) == 1:
        return ["here"]
    return [f"at {label}" if known_steps(dataset) is not None else f"at checkpoint {label}" for label in labels]


def _sinks(dataset: xr.Dataset, when: list[str]) -> str:
    length = int(dataset.attrs.get("length", SHORTEST))
    if length < SHORTEST:
        return f"sequences of {length} tokens are too short to tell an attention sink from even attention"
    rates = np.nan_to_num(sink_rates(dataset).values)
    heads = rates[0].size
    emerged = (rates > EMERGED_RATE).reshape(len(when), -1).sum(axis=1)
    best = np.unravel_index(rates.argmax(), rates.shape)
    place = f", in layer {best[1]}, head {best[2]}" if rates[best] > 0 else ""
    highest = f"the highest is {rates[best]:.2f}{place}"
    rate = f"the sink rate at position {POSITION} (ε = {EPSILON:g})"
    if len(when) == 1:
        return f"in {emerged[0]} of {heads} heads {rate} exceeds {EMERGED_RATE:g}; {highest}"
    if place:
        highest += f", first {when[best[0]]}"
    if not emerged.any():
        return f"no attention sink emerged: {rate} exceeds {EMERGED_RATE:g} in no head at any checkpoint; {highest}"
    first = int((emerged > 0).argmax())
    layer, head = np.unravel_index(rates[first].argmax(), rates[first].shape)
    place = f"{when[first]}, in layer {layer}, head {head}"
    opening = (
        f"attention sinks are there from the first checkpoint on: {rate} exceeds {EMERGED_RATE:g} {place}"
        if first == 0
        else f"attention sinks emerged: {rate} first exceeds {EMERGED_RATE:g} {place}"
    )
    left = f"in {emerged[-1]} of {heads} heads" if emerged[-1] else "in no head any more"
    return f"{opening}. At the last checkpoint it does so {left}; over all checkpoints {highest}"


def _top_sinks(dataset: xr.Dataset, when: list[str]) -> str:
    found = dataset["top_sink_position"].isel(checkpoint=-1).values
    found = found[found >= 0]
    if found.size == 0:
        return "no key was seen by enough rows to be called a head's top sink"
    places, counts = np.unique(found, return_counts=True)
    return (
        f"{when[-1]}, the key with a head's highest sink score is most often at position {places[counts.argmax()]}: "
        f"in {counts.max() / found.size:.0%} of all heads and sequences"
    )


def _drain(dataset: xr.Dataset, when: list[str]) -> str:
    last = dataset.isel(checkpoint=-1, position=POSITION).transpose("layer", "head", ...)
    norms, rates = last["value_norm"].values, last["waiver_rate"].values
    layer, head = np.unravel_index(norms.argmin(), norms.shape)
    return (
        f"{when[-1]}, position {POSITION} draws attention and gives next to nothing (a waiver) in most sequences in "
        f"{(rates > EMERGED_RATE).sum()} of {rates.size} heads; its smallest value norm is "
        f"{norms[layer, head]:.2f} of the mean over positions, in layer {layer}, head {head}"
    )


def _massive(dataset: xr.Dataset, when: list[str]) -> str:
    ratios = massive_ratios(dataset).values
    name = "max|h| / median|h|"
    if len(when) == 1:
        depth = int(np.nanargmax(ratios[0]))
        return f"the massive ratio {name} is highest at depth {depth}: {_number(ratios[0, depth])}"
    depth, series = _fastest(ratios)
    top = int(np.nanargmax(series))
    growth = series[top] / series[0]
    if growth < EMERGED_GROWTH:
        return (
            f"no massive activation emerged: {name} grows twofold at no depth; the most is {growth:.2f}-fold, "
            f"at depth {depth}"
        )
    doubled = when[int(np.argmax(series >= EMERGED_GROWTH * series[0]))]
    left = "" if series[-1] >= _FALLEN * series[top] else f", and is {_number(series[-1])} {when[-1]}"
    return (
        f"the largest activations grew out of proportion: {name} grows most at depth {depth}, "
        f"{growth:.1f}-fold, from {_number(series[0])} {when[0]} to {_number(series[top])} {when[top]}; "
        f"it is first seen doubled {doubled}{left}"
    )


def _criterion(dataset: xr.Dataset, when: list[str]) -> str:
    rates = np.nan_to_num(dataset["massive_rate"].transpose("checkpoint", "depth").values)
    constants = [float(dataset.attrs.get(name, np.nan)) for name in ("massive_threshold", "massive_multiple")]
    criterion = "the published criterion of a massive activation"
    if np.isfinite(constants).all():
        criterion += f" (|h| above {constants[0]:,g} and at least {constants[1]:,g} times the median)"
    if not rates.any():
        return f"{criterion} is met in no sequence{'' if len(when) == 1 else ' at any checkpoint'}"
    first = int(rates.any(axis=1).argmax())
    depth = int(rates[first].argmax())
    met = "is met" if len(when) == 1 else f"is first met {when[first]}"
    last = int(np.flatnonzero(rates.any(axis=1))[-1])
    place = f"in {rates[first, depth]:.0%} of sequences at depth {depth}"
    return f"{criterion} {met}, {place}{_onset(dataset, last)}"


def _onset(dataset: xr.Dataset, last: int) -> str:
    """Where massive activations set in at a checkpoint that has some, most often; nothing where not measured."""
    if "massive_onset" not in dataset:
        return ""
    onsets = dataset["massive_onset"].isel(checkpoint=last).values
    depths, counts = np.unique(onsets[onsets >= 0], return_counts=True)
    where = "" if dataset.sizes["checkpoint"] == 1 else "at the last such checkpoint "
    return f"; {where}it sets in, most often, at depth {depths[counts.argmax()]}"


def _site(dataset: xr.Dataset, when: list[str]) -> str:
    sites = find_sites(dataset)
    depth = int(np.nanargmax(massive_ratios(dataset).values[-1]))
    shares = sites.by_depth[:, depth]
    subject = f"{when[-1]}, the largest activation at depth {depth}, where the ratio is highest, sits"
    if shares.size == 0 or shares.max() == 0:
        return f"{subject} at no place that the sequences share"
    position, dimension = sites.places[int(shares.argmax())]
    return f"{subject} at position {position}, dimension {dimension}, in {shares.max():.0%} of sequences"


def _order(dataset: xr.Dataset, when: list[str]) -> list[str]:
    """In which order a sink, a drained value and a doubled ratio are first seen; nothing where fewer than two are."""
    seen: dict[str, np.ndarray] = {}
    if "sink_rate" in dataset and int(dataset.attrs.get("length", SHORTEST)) >= SHORTEST:
        seen["a sink"] = np.max(np.nan_to_num(sink_rates(dataset).values), axis=(1, 2)) > EMERGED_RATE
    if "waiver_rate" in dataset:
        rates = np.nan_to_num(of_key(dataset, "the drain of values", "waiver_rate").values)
        seen["a sink whose value has drained"] = np.max(rates, axis=(1, 2)) > EMERGED_RATE
    if {"top_activation", "median_activation"} <= set(dataset.data_vars):
        series = _fastest(massive_ratios(dataset).values)[1]
        seen["a doubled massive ratio"] = series >= EMERGED_GROWTH * series[0]
    first = sorted((int(there.argmax()), what) for what, there in seen.items() if there.any())
    if len(when) == 1 or len(first) < 2:
        return []
    told = [f"{what} {when[i]}" for i, what in first]
    return [f"first seen, in this order: {', '.join(told)}"]


def _fastest(ratios: np.ndarray) -> tuple[int, np.ndarray]:
    """The depth whose ratio (checkpoint, depth) grows most over the first checkpoint's, and its series."""
    depth = int(np.nanargmax(np.nanmax(ratios, axis=0) / ratios[0]))
    return depth, ratios[:, depth]


def _secondary(dataset: xr.Dataset, when: list[str]) -> str:
    counts = dataset["secondary_sinks"].isel(checkpoint=-1, depth=slice(1, None)).transpose("sequence", "depth")
    cosine = float(dataset.attrs.get("secondary_cosine", np.nan))
    criterion = f" (|cosine| above {cosine:g})" if np.isfinite(cosine) else ""
    told = f"no block leaves another token pointing where the first one does{criterion}, a secondary sink"
    if counts.max() > 0:
        most = int(counts.values.max(axis=0).argmax())
        tokens = int(counts.max())
        told = (
            f"at most {tokens} token{'s' * (tokens != 1)} of a sequence point{'s' * (tokens == 1)} where its first one "
            f"does{criterion}, as secondary sinks, at depth {counts['depth'].values[most]}"
        )
    return f"{when[-1]}, {told}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
