"""One checkpoint's measurements: the corpus through the model, a batch at a time, and the probes' datasets joined."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.memory import is_out_of_memory
from ontogeny.dynamics.progress import Progress
from ontogeny.errors import OntogenyError
from ontogeny.probes import Probe
from ontogeny.probes.capture import Trace, run_pass
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

    Where memory does not suffice for a batch it is halved, down to one sequence; the coordinate `batch_size` holds the
    size that was gone through with. Where the model's attention cannot be hooked, the probes that need it are left out
    and the attribute `attention` gives the reason. Raises OntogenyError where no probe is left, a pass cannot be
    measured, or memory does not suffice for one sequence.
    """
    ids = torch.from_numpy(corpus.ids)
    needs = frozenset[str]().union(*(probe.needs for probe in probes.values()))
    parts, start = [], 0
    while start < len(ids):
        batch = ids[start : start + batch_size]
        try:
            trace, part = _measured(model, batch, probes, needs, progress, impl)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            batch_size = _half(len(batch), model.device, progress)
        else:
            parts.append(part)
            start += len(batch)
            progress.tokens(batch.numel())
            continue
        _release(model.device)
    return label(probes, parts, trace).assign_coords(batch_size=batch_size)


def _measured(
    model: PreTrainedModel,
    batch: Tensor,
    probes: Mapping[str, Probe],
    needs: frozenset[str],
    progress: Progress,
    impl: str,
) -> tuple[Trace, dict[str, dict[str, Tensor]]]:
    trace = run_pass(model, batch.to(model.device), needs=needs, on_block=progress.block, impl=impl)
    return trace, reduce_trace(probes, trace)


def _half(size: int, device: torch.device, progress: Progress) -> int:
    if size == 1:
        raise OntogenyError(
            f"memory of {device} does not suffice for one sequence: use --length with a smaller number, --dtype "
            "bfloat16, or another --device"
        ) from None
    progress.note(f"memory of {device} does not suffice for {size} sequences a pass: going on with {size // 2}")
    return size // 2


def _release(device: torch.device) -> None:
    """Give back what the failed pass held; called when its exception, which holds the pass's tensors, is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
