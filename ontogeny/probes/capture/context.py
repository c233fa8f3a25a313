"""`with capture(model) as trace:` records every forward pass inside; the model is left as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.kernels.attention import Implementation
from ontogeny.kernels.inputs import Output
from ontogeny.probes.capture.finite import require_finite
from ontogeny.probes.capture.inputs import PassInputs
from ontogeny.probes.capture.lens import LensRecorder, as_bridge
from ontogeny.probes.capture.recorder import ModelRecorder, PassRecorder
from ontogeny.probes.capture.trace import Trace
from ontogeny.probes.capture.wanted import USUAL, Wanted

_captured: WeakSet[nn.Module] = WeakSet()


@contextmanager
def capture(
    model: Any,
    *,
    needs: Collection[str] = USUAL,
    on_block: Callable[[int], None] | None = None,
    maps: Collection[int] = (),
    columns: Sequence[int] = (),
    impl: Implementation = "auto",
    output: Output = "fused",
) -> Iterator[Trace]:
    """Record what the forward passes of `model` inside the `with` leave behind, reduced as they run.

    `model` is a transformers model, with or without its head, or a TransformerLens `TransformerBridge`. Run it there
    as you like, on whole sequences of one length, with `attention_mask` (B, T) where there is padding; the batches are
    joined in the trace. A pass that raises leaves nothing in it.

    `needs` names what to record: `attention`, with which `values` come, `residual`; on request `contexts`, `clusters`,
    `walks` and `logits`, which take the residual stream, whole maps of one layer at a time, or both, further. `maps`
    names layers whose whole (B, H, T, T) map to keep; no other is. `columns` names keys whose column of every layer's
    map to keep, (B, H, T, C). `on_block` is told the index of each block as a pass leaves it. `impl` and `output` are
    handed to `attention_stats`: with `output="sdpa"` a model set to sdpa computes at its tokens, to the bit, what it
    computes unhooked (padding gives other numbers, which reach no token).

    Inside, the model is in evaluation mode and under `torch.no_grad()`. On leaving, also by an exception, its hooks,
    attention implementations, training flags and the gradient mode are as they were. Where the attention cannot be
    hooked, `Trace.attention` gives the reason and the residual stream is measured all the same; and the other way
    round, where the model's blocks are not known, with `Trace.residual`.

    Raises OntogenyError for a model of another kind, for one that is being captured already, and from within a pass
    where a part of it would be missed or misread, a key-value cache is used, or activations are not finite.
    """
    wanted = Wanted.of(needs, maps, columns, on_block)
    recorder = _recorder(model, wanted, impl, output)
    if recorder.base in _captured:
        raise OntogenyError(
            f"{type(recorder.base).__name__} is being captured already: expected one capture of a model at a time; "
            "leave the other `with` first"
        )
    for warning in recorder.warnings:
        warnings.warn(warning, stacklevel=3)
    trace = Trace(notes=recorder.notes)
    _captured.add(recorder.base)
    try:
        with evaluating(model, recorder.base), recorder.hooked(), _committed(recorder, trace):
            yield trace
    finally:
        _captured.discard(recorder.base)


def run_pass(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Trace:
    """Capture one pass of the model's base, without its head, on `ids` (B, T); `options` are those of `capture`."""
    with capture(model, **options) as trace:
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True)
    return trace


def is_captured(base: nn.Module) -> bool:
    """Whether a capture of the model whose base this is has been entered and not left."""
    return base in _captured


def _recorder(model: Any, wanted: Wanted, impl: Implementation, output: Output) -> PassRecorder:
    bridge = as_bridge(model)
    if bridge is not None:
        if (impl, output) != ("auto", "fused"):
            raise OntogenyError(
                "impl, output: a TransformerBridge computes its attention itself, expected neither, got "
                f"impl={impl!r}, output={output!r}"
            )
        return LensRecorder(bridge, wanted)
    if not isinstance(model, PreTrainedModel):
        unwrap = "; capture the model before torch.compile wraps it" if hasattr(model, "_orig_mod") else ""
        raise OntogenyError(
            "expected a transformers PreTrainedModel or a TransformerLens TransformerBridge, got "
            f"{type(model).__name__}{unwrap}"
        )
    return ModelRecorder(model, wanted, impl, output)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in evaluation mode and without gradients; on leaving, as they were."""
    flags = {module: module.training for model in models for module in model.modules()}
    for module in flags:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextmanager
def _committed(recorder: PassRecorder, trace: Trace) -> Iterator[None]:
    """Add each pass of the recorder's base to the trace as it comes to its end."""
    base, owner = recorder.base, threading.get_ident()
    running: list[PassInputs] = []

    def before(_base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        _refuse_other_state(base, owner)
        inputs = PassInputs(base, args, kwargs)
        running[:] = [inputs]
        recorder.begin(inputs)
        return inputs.args, inputs.kwargs

    def after(_base: nn.Module, _args: Any, output: Any) -> None:
        _refuse_not_finite(output, running.pop().valid)
        trace.add(recorder.finish())

    handles = [base.register_forward_pre_hook(before, with_kwargs=True), base.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_other_state(base: nn.Module, owner: int) -> None:
    name = type(base).__name__
    if threading.get_ident() != owner:
        raise OntogenyError(f"{name} is being captured in another thread: run it there, or copy it")
    if torch.is_grad_enabled() or base.training:
        raise OntogenyError(
            f"{name} was set to train, or gradients were turned on, inside its capture: expected passes in evaluation "
            "mode without gradients; train outside the `with`"
        )


def _refuse_not_finite(output: Any, valid: Tensor | None) -> None:
    last = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    if not isinstance(last, Tensor):
        raise OntogenyError(f"the model gave a {type(output).__name__} without a last hidden state: cannot be measured")
    require_finite(last if valid is None else last[valid])
