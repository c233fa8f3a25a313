"""Traces in, a labelled dataset out: what a scan and a capture by hand share; dynamics/measure.py runs the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import ATTENTION, Trace
from ontogeny.probes.experiment import Experiment, UnavailableError
from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.registry import DEFINITIONS, make_probes
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
    "intervention": ("what was changed", "1"),
    "outcome": ("where the sink went", "1"),
}


def measure(trace: Trace, probes: Sequence[str] | None = None, positions: int | None = 16) -> xr.Dataset:
    """Turn what `capture` recorded into a labelled dataset, with the variables that a scan has for one checkpoint.

    `probes` are names of probes, None for all; those that need what was not captured are left out. `positions` is the
    number of key positions to keep, None for all.

    Raises OntogenyError for an empty trace and where no probe is left, UsageError for an unknown probe.
    """
    if not isinstance(trace, Trace):
        raise OntogenyError(f"expected a Trace, as `with ontogeny.capture(model) as trace` gives, got {type(trace)}")
    if positions is not None and not (isinstance(positions, int) and positions >= 1):
        raise UsageError(f"positions: expected a whole number, at least 1, or None for all, got {positions!r}")
    kept = None if positions is None else min(positions, trace.length)
    chosen = make_probes([probes] if isinstance(probes, str) else probes, ProbeSettings(trace.length, kept))
    dataset = label(chosen.traced, [reduce_trace(chosen.traced, trace)], trace)
    return dataset.assign_attrs(
        length=trace.length,
        positions="all" if kept is None else kept,
        definitions=DEFINITIONS,
        ontogeny_version=__version__,
    )


def reduce_trace(probes: Mapping[str, Probe], trace: Trace) -> dict[str, Arrays]:
    """The arrays of each probe that finds what it needs. Raises OntogenyError where none does."""
    possible = {name: probe for name, probe in probes.items() if probe.needs <= trace.available}
    if not possible and ATTENTION not in trace.available:
        raise OntogenyError(
            f"attention is {trace.attention}; the probes asked for need it: ask for the probe massive alone"
        )
    if not possible:
        raise OntogenyError(
            f"the probes asked for need more than {', '.join(sorted(trace.available))}: capture with more `needs`"
        )
    return {name: probe.reduce(trace) for name, probe in possible.items()}


def label(probes: Mapping[str, Probe], parts: Sequence[Mapping[str, Arrays]], trace: Trace) -> xr.Dataset:
    """Join the arrays of one or more traces, in order, and name them; `trace` is one of these, for the attributes."""
    datasets = [probes[name].dataset(_to_host([part[name] for part in parts])) for name in parts[0]]
    return joined(datasets).assign_attrs(attention=trace.attention, update_norm=trace.updates, **trace.notes)


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


def joined(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Datasets of one checkpoint as one, whose coordinates say what they are."""
    whole = xr.merge(
        _with_all_interventions(datasets), join="exact", combine_attrs="no_conflicts", compat="no_conflicts"
    )
    for name, (long_name, units) in COORDINATES.items():
        if name in whole.coords:
            whole[name].attrs.update(long_name=long_name, units=units)
    return whole


def _with_all_interventions(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Datasets of different experiments, each NaN at what only another one does."""
    experiments = [one for one in datasets if "intervention" in one.coords]
    names = list(dict.fromkeys(name for one in experiments for name in one["intervention"].values))
    return [one.reindex(intervention=names) if "intervention" in one.coords else one for one in datasets]


def _to_host(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
