"""One checkpoint's measurements: the corpus through the model, a batch at a time, and the probes' datasets joined."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xarray as xr
from transformers import PreTrainedModel

from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.progress import Progress
from ontogeny.probes import Probe
from ontogeny.probes.capture import run_pass
from ontogeny.probes.measure import label, reduce_trace


def measure_checkpoint(
    model: PreTrainedModel,
    corpus: Corpus,
    probes: Mapping[str, Probe],
    batch_size: int,
    progress: Progress,
    impl: str = "auto",
) -> xr.Dataset:
    """Run every sequence of `corpus` through `model` and return what `probes` see, labelled.

    Where the model's attention cannot be hooked, the probes that need it are left out and the attribute `attention`
    gives the reason. Raises OntogenyError where no probe is left, or a pass cannot be measured.
    """
    ids = torch.from_numpy(corpus.ids)
    needs = frozenset[str]().union(*(probe.needs for probe in probes.values()))
    parts = []
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size].to(model.device)
        trace = run_pass(model, batch, needs=needs, on_block=progress.block, impl=impl)
        parts.append(reduce_trace(probes, trace))
        progress.tokens(batch.numel())
    return label(probes, parts, trace)
