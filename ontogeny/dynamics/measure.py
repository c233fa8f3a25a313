"""One checkpoint's measurements: the corpus through the model, a batch at a time, and the probes' datasets joined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.progress import Progress
from ontogeny.errors import OntogenyError
from ontogeny.probes import Probe
from ontogeny.probes.capture import ATTENTION, CAPTURED, Trace, capture


def measure(
    model: PreTrainedModel, corpus: Corpus, probes: Mapping[str, Probe], batch_size: int, progress: Progress
) -> xr.Dataset:
    """Run every sequence of `corpus` through `model` and return what `probes` see, labelled.

    Where the model's attention cannot be hooked, the probes that need it are left out and the attribute `attention`
    gives the reason. Raises OntogenyError where no probe is left, or a pass cannot be measured.
    """
    ids = torch.from_numpy(corpus.ids)
    needs = frozenset[str]().union(*(probe.needs for probe in probes.values()))
    reduced: dict[str, list[dict[str, Tensor]]] = {name: [] for name in probes}
    attention = CAPTURED
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size].to(model.device)
        trace = capture(model, batch, needs=needs, on_block=progress.block)
        attention = trace.attention
        for name, probe in _possible(probes, trace).items():
            reduced[name].append(probe.reduce(trace))
        progress.tokens(batch.numel())
    measured = {name: probe for name, probe in probes.items() if reduced[name]}
    datasets = [probe.dataset(_to_host(reduced[name])) for name, probe in measured.items()]
    joined = xr.merge(datasets, join="exact", combine_attrs="no_conflicts", compat="no_conflicts")
    return joined.assign_attrs(attention=attention)


def _possible(probes: Mapping[str, Probe], trace: Trace) -> dict[str, Probe]:
    possible = {
        name: probe for name, probe in probes.items() if trace.attention == CAPTURED or ATTENTION not in probe.needs
    }
    if not possible:
        raise OntogenyError(f"attention is {trace.attention}; the probes asked for need it: add --probes massive")
    return possible


def _to_host(parts: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
