"""One checkpoint's measurements: the corpus through the model, a batch at a time, and the probes' datasets joined."""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.progress import Progress
from ontogeny.probes import Probes
from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import Trace, run_pass
from ontogeny.probes.measure import joined, reduce_passes, run_experiments


def measure_checkpoint(
    model: PreTrainedModel,
    corpus: Corpus,
    probes: Probes,
    batch_size: int,
    progress: Progress,
    impl: str = "auto",
) -> xr.Dataset:
    """Run every sequence of `corpus` through `model` and return what `probes` see, labelled.

    Where memory does not suffice for a batch it is halved, down to one sequence; the coordinate `batch_size` holds the
    size that was gone through with. Where the model's attention cannot be hooked, the probes that need it are left out
    and the attribute `attention` gives the reason; an experiment that this model does not lend itself to is left out,
    and an attribute of its name gives the reason. Raises OntogenyError where no probe is left, a pass cannot be
    measured, or memory does not suffice for one sequence.
    """
    batches = Batches(torch.from_numpy(corpus.ids), batch_size, model.device, progress.note)
    needs = frozenset[str]().union(*(probe.needs for probe in probes.traced.values()))

    def run(batch: Tensor) -> Trace:
        trace = run_pass(model, batch, needs=needs, on_block=progress.block, impl=impl)
        progress.tokens(batch.numel())
        return trace

    found = reduce_passes(probes.traced, batches, run)
    found += run_experiments(probes.experiments, model, batches, impl)
    return joined(found).assign_coords(batch_size=batches.size)
