"""A model in the middle of its training: found inside what is wrapped around it, and run so that nothing changes."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import distributed, nn
from transformers import PreTrainedModel

from ontogeny.errors import UsageError

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")


def is_main_process() -> bool:
    """Whether this process is the one of a distributed training that speaks for all; alone, it is."""
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank())


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside DistributedDataParallel, torch.compile and the like.

    Raises UsageError where there is none.
    """
    inner: object = model
    while isinstance(inner, nn.Module) and not isinstance(inner, PreTrainedModel):
        inner = next((getattr(inner, name) for name in _WRAPPERS if name in inner._modules), None)
    if not isinstance(inner, PreTrainedModel):
        advice = "model.get_base_model()" if hasattr(model, "get_base_model") else "the model inside it"
        raise UsageError(
            "expected a transformers PreTrainedModel, or one inside DistributedDataParallel or torch.compile, got "
            f"{type(model).__name__}: call the observer with {advice}"
        )
    return inner


def refuse_parts(model: nn.Module) -> None:
    """Raise UsageError unless every parameter of a model in its wrappers is whole, and all are on one device."""
    name = type(unwrapped(model)).__name__
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    # Parameters of FSDP 2 have a mesh of devices; DeepSpeed's ZeRO 3 leaves empty ones between passes.
    if sharded or any(hasattr(one, "device_mesh") or not one.numel() for one in model.parameters()):
        raise UsageError(
            f"the parameters of this {name} are spread over processes (FSDP, ZeRO 3), and no process "
            "has whole ones to measure: save checkpoints, and scan these"
        )
    devices = sorted({str(one.device) for one in model.parameters()})
    if len(devices) != 1 or devices == ["meta"]:
        raise UsageError(
            f"the parameters of this {name} are on {', '.join(devices) or 'no device'}: expected all "
            "of them on one device; save checkpoints, and scan these"
        )


def dtype_name(model: PreTrainedModel) -> str:
    """The floating-point type of the parameters; all of them, where there are several."""
    found = {one.dtype for one in model.parameters() if one.is_floating_point()}
    return ", ".join(sorted(str(one).removeprefix("torch.") for one in found))


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` computes in its parameters' dtype, uncompiled; afterwards the training goes on as if unseen.

    The random streams of Python, numpy and torch go on from where they were. Autocast is off inside, also the one that
    accelerate puts around a model's forward, and so is the demand for deterministic algorithms, which not every
    statistic has on a GPU. What a capture changes, it restores itself.
    """
    streams = random.getstate(), np.random.get_state()
    deterministic = torch.get_deterministic_debug_mode()
    kind = model.device.type
    try:
        with ExitStack() as inside:
            inside.enter_context(torch.random.fork_rng([model.device] if kind == "cuda" else []))
            inside.enter_context(torch.autocast(kind, enabled=False))
            inside.enter_context(_own_forward(model))
            if "torch._dynamo" in sys.modules:
                inside.enter_context(torch.compiler.set_stance("force_eager"))
            torch.set_deterministic_debug_mode(0)
            yield
    finally:
        torch.set_deterministic_debug_mode(deterministic)
        random.setstate(streams[0])
        np.random.set_state(streams[1])


@contextmanager
def _own_forward(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's forward is that of its class, where accelerate has wrapped it for mixed precision."""
    if "_original_forward" not in vars(model):
        yield
        return
    wrapped = vars(model).pop("forward")
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped
