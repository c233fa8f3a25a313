"""From what a user has to a labelled dataset: what a scan and a measurement by hand share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import ATTENTION, RESIDUAL, USUAL, Trace, evaluating
from ontogeny.probes.experiment import Experiment, UnavailableError
from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.registry import DEFINITIONS, Probes, make_probes, needs_of, readable
from ontogeny.probes.sources import ModelOnTokens, as_model, as_trace
from ontogeny.version import __version__

Arrays = dict[str, Tensor]

COORDINATES = {
    "layer": ("block", "1"),
    "depth": ("residual stream: 0 before block 0, i + 1 after block i", "1"),
    "head": ("query head", "1"),
    "position": ("key position, from 0", "tokens"),
    "sequence": ("sequence of the corpus", "1"),
    "rank": ("rank by magnitude", "1"),
    "epsilon": ("threshold of the sink score", "1"),
    "moves": ("moves of a walk", "1"),
    "selection": ("tokens that are counted", "1"),
    "beta": ("inverse temperature", "1"),
    "threshold": ("cosine above which two tokens are linked", "1"),
    "intervention": ("what was changed", "1"),
    "swap": ("what positions 0 and m exchanged", "1"),
    "outcome": ("where the sink went", "1"),
}


def measure(
    source: Any,
    input_ids: Any = None,
    *,
    attention_mask: Any = None,
    probes: Sequence[str] | str | None = None,
    positions: int | None = 16,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Measure what you have: a labelled dataset, with the variables that a scan has for one checkpoint.

    `source` is

    - a transformers model or a TransformerLens `TransformerBridge`, which is run on `input_ids`: (N, T), or a list of
      lists of one length, with an `attention_mask` (N, T) where there is padding, `batch_size` sequences a pass, None
      for about 4096 tokens;
    - a `Trace`, as `with ontogeny.capture(model) as trace` gives;
    - an `ActivationCache`, as TransformerLens' `run_with_cache` returns;
    - a mapping of arrays, of torch or numpy, by the names of the arguments of `trace_of_arrays`.

    `probes` are names of probes, None for the default ones and those besides that find what they need in a trace. What
    a source does not lend itself to is left out, and an attribute of the probe's name says why. `positions` is the
    number of key positions to keep, None for all.

    Raises OntogenyError for another source, for what a source does not take, and where no probe is left; UsageError
    for an unknown probe.
    """
    names = [probes] if isinstance(probes, str) else probes
    if positions is not None and not (isinstance(positions, int) and positions >= 1):
        raise UsageError(f"positions: expected a whole number, at least 1, or None for all, got {positions!r}")
    model = as_model(source)
    if model is not None:
        run = ModelOnTokens.of(model, input_ids, attention_mask)
        chosen, attributes = _chosen(names, run.ids.shape[1], positions)
        found = _of_model(run, chosen, run.batches(batch_size))
    else:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "batch_size": batch_size}
        _refuse_beside(source, [name for name, one in given.items() if one is not None])
        trace = as_trace(source, needs_of(names) or USUAL)
        chosen, attributes = _chosen(readable(trace) if names is None else names, trace.length, positions)
        found = [label(chosen.traced, [reduce_trace(chosen.traced, trace)], trace)] if chosen.traced else []
        found += _without(chosen.experiments, f"it runs a transformers model again, got a {type(source).__name__}")
    return joined(found).assign_attrs(attributes)


def _chosen(names: Sequence[str] | None, length: int, positions: int | None) -> tuple[Probes, dict[str, Any]]:
    kept = None if positions is None else min(positions, length)
    attributes = {
        "length": length,
        "positions": "all" if kept is None else kept,
        "definitions": DEFINITIONS,
        "ontogeny_version": __version__,
    }
    return make_probes(names, ProbeSettings(length, kept)), attributes


def _of_model(run: ModelOnTokens, chosen: Probes, batches: Batches) -> list[xr.Dataset]:
    found = reduce_passes(chosen.traced, batches, lambda batch: run.run(batch, chosen.needs))
    why = run.without_experiments
    if why is not None:
        return found + _without(chosen.experiments, why)
    with evaluating(run.model):
        return found + run_experiments(chosen.experiments, run.model, batches)


def _refuse_beside(source: Any, given: Sequence[str]) -> None:
    if given:
        raise OntogenyError(
            f"{', '.join(given)}: expected with a model alone, got {type(source).__name__}; a mapping of "
            "arrays holds `input_ids` and `mask` itself, and probes are named by probes="
        )


def reduce_passes(probes: Mapping[str, Probe], batches: Batches, run: Callable[[Tensor], Trace]) -> list[xr.Dataset]:
    """What the probes see of the traces that `run` makes of each batch: one dataset, or none without probes."""
    last: list[Trace] = []

    def reduced(batch: Tensor) -> dict[str, Arrays]:
        trace = run(batch)
        part = reduce_trace(probes, trace)
        last[:] = [trace]
        return part

    parts = batches.each(reduced) if probes else []
    return [label(probes, parts, last[0])] if parts else []


def reduce_trace(probes: Mapping[str, Probe], trace: Trace) -> dict[str, Arrays]:
    """The arrays of each probe that finds what it needs. Raises OntogenyError where none does."""
    possible = {name: probe for name, probe in probes.items() if probe.needs <= trace.available}
    if not possible and ATTENTION not in trace.available and not trace.residual.startswith("unavailable"):
        raise OntogenyError(
            f"attention is {trace.attention}; the probes asked for need it: ask for the probe massive alone"
        )
    if not possible:
        lacking = "; ".join(f"{name} needs {_lacking(probe, trace)}" for name, probe in probes.items())
        raise OntogenyError(f"no probe is left: {lacking}; capture with more `needs`, or give more arrays")
    return {name: probe.reduce(trace) for name, probe in possible.items()}


def label(probes: Mapping[str, Probe], parts: Sequence[Mapping[str, Arrays]], trace: Trace) -> xr.Dataset:
    """Join the arrays of one or more traces, in order, and name them; `trace` is one of these, for the attributes."""
    datasets = [probes[name].dataset(_to_host([part[name] for part in parts])) for name in parts[0]]
    left_out = {
        name: f"unavailable: it needs {_lacking(probe, trace)}"
        for name, probe in probes.items()
        if name not in parts[0]
    }
    status = {"attention": trace.attention, "residual": trace.residual, "update_norm": trace.updates}
    return joined(datasets).assign_attrs(**status, **left_out, **trace.notes)


def _lacking(probe: Probe, trace: Trace) -> str:
    told = {ATTENTION: f" ({trace.attention})", RESIDUAL: f" ({trace.residual})"}
    return ", ".join(f"{name}{told.get(name, '')}" for name in sorted(probe.needs - trace.available))


def run_experiments(
    experiments: Mapping[str, Experiment], model: PreTrainedModel, batches: Batches, impl: str = "auto"
) -> list[xr.Dataset]:
    """What each experiment measures; of one that this model does not lend itself to, an attribute that says why."""
    found = []
    for name, experiment in experiments.items():
        try:
            found.append(experiment.run(model, batches, impl))
        except UnavailableError as error:
            found.append(xr.Dataset(attrs={name: f"unavailable: {error}"}))
    return found


def _without(experiments: Mapping[str, Experiment], why: str) -> list[xr.Dataset]:
    return [xr.Dataset(attrs=dict.fromkeys(experiments, f"unavailable: {why}"))]


def joined(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Datasets of one checkpoint as one, whose coordinates say what they are."""
    whole = xr.merge(datasets, join="exact", combine_attrs="no_conflicts", compat="no_conflicts")
    for name, (long_name, units) in COORDINATES.items():
        if name in whole.coords:
            whole[name].attrs.update(long_name=long_name, units=units)
    return whole


def _to_host(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
