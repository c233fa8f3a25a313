"""The trace of an `ActivationCache`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.lens.bridge import as_bridge, notes_on, output_projection, refuse_hidden_padding
from ontogeny.probes.capture.lens.layer import LAYER_HOOKS, LayerTensors, layer_trace, updates_of
from ontogeny.probes.capture.residual import reduce_residual
from ontogeny.probes.capture.routing import AskedOfLayer
from ontogeny.probes.capture.trace import CAPTURED, LOGITS, NOT_ASKED, WALKS, Pass, ResidualTrace, Trace
from ontogeny.probes.capture.wanted import USUAL, Wanted

OLDER_NAMES = {
    "v.hook_out": "hook_v",
    "o.hook_in": "hook_z",
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
}


def trace_of(cache: Any, *, needs: Collection[str] = USUAL, maps: Collection[int] = ()) -> Trace:
    """The trace of a whole `ActivationCache`, as `run_with_cache` returns it; `needs` and `maps` as in `capture`.

    Raises OntogenyError where something is missing in the cache, or shows attention that cannot be measured.
    """
    stored, model = getattr(cache, "cache_dict", None), as_bridge(getattr(cache, "model", None))
    if stored is None or model is None:
        raise OntogenyError(
            f"expected an ActivationCache that still has its model, got {type(cache).__name__}: pass the cache that "
            "run_with_cache returned"
        )
    layers = len(model.blocks)
    wanted = Wanted.of(needs, maps)
    wanted.refuse_absent_layers(layers)
    read = _reader(stored, bool(cache.has_batch_dim))
    tokens = stored.get("embed.hook_in")
    ids = tokens if tokens is None or cache.has_batch_dim else tokens[None]
    if ids is not None:
        refuse_hidden_padding(model, ids)
    walk_ids = ids if WALKS in wanted.needs else None
    traces = []
    for layer in range(layers if wanted.attention else 1):  # that of layer 0 tells what is padding
        tensors = [read(f"blocks.{layer}.attn.", name) for name in LAYER_HOOKS]
        entering = None
        if LOGITS in wanted.needs:
            entering = read(f"blocks.{layer - 1}.", "hook_out") if layer else read("blocks.0.", "hook_in")
        asked = AskedOfLayer(keep_map=layer in wanted.maps, walk_ids=walk_ids, entering=entering)
        projection = output_projection(model, layer)
        trace, valid = layer_trace(f"layer {layer}", LayerTensors(*tensors), asked, projection)
        traces.append(trace)
    padding = None if bool(valid.all()) else valid
    equal = wanted.equal_tokens("the cached pass", ids, padding)
    depths: tuple[ResidualTrace, ...] = ()
    if wanted.residual:
        states = [read("blocks.0.", "hook_in"), *(read(f"blocks.{layer}.", "hook_out") for layer in range(layers))]
        clusters = wanted.cluster_stream(padding)
        with torch.no_grad():
            depths = tuple(reduce_residual(state, padding, equal, clusters) for state in states)
    residual = CAPTURED if wanted.residual else NOT_ASKED
    if wanted.attention:
        one = Pass(valid.shape[1], tuple(traces), depths, CAPTURED, updates_of(traces), ids, residual)
    else:
        one = Pass(valid.shape[1], (), depths, NOT_ASKED, NOT_ASKED, ids, residual)
    notes = notes_on(model)
    for note in notes.values():
        warnings.warn(note, stacklevel=2)
    return Trace([one], notes)


def _reader(stored: Mapping[str, Tensor], batched: bool) -> Callable[[str, str], Tensor]:
    """Look a hook's tensor up by its own name or by TransformerLens' older one."""

    def read(prefix: str, name: str) -> Tensor:
        for key in (f"{prefix}{name}", f"{prefix}{OLDER_NAMES.get(name, name)}"):
            if key in stored:
                return stored[key] if batched else stored[key][None]
        raise OntogenyError(f"the cache has no {key}: expected one that run_with_cache made of all hooks")

    return read
