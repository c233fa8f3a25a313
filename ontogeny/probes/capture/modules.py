"""Where a model keeps its blocks and, inside each, its attention."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from ontogeny.errors import OntogenyError


def find_blocks(model: PreTrainedModel) -> list[nn.Module] | str:
    """The residual blocks in order: those that the model's class declares, else its one list of `layers` blocks.

    Or the reason why they are not known. Raises OntogenyError for encoder-decoders and models inside a
    TransformerBridge.
    """
    if model.config.is_encoder_decoder:
        raise OntogenyError(f"{type(model).__name__} is an encoder-decoder: expected a model with one stack of blocks")
    if any(type(module).__module__.startswith("transformer_lens.") for module in model.modules()):
        raise OntogenyError(f"this {type(model).__name__} is inside a TransformerBridge: expected the bridge itself")
    declared = _recorded(model, "hidden_states")
    if declared:
        return declared
    layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
    if len(lists) != 1:
        return (
            f"unavailable: {type(model).__name__} does not say which of its modules are its {layers} blocks, and has "
            f"{len(lists)} lists of that length"
        )
    return list(lists[0])


def find_owner(model: PreTrainedModel, parts: list[nn.Module]) -> PreTrainedModel:
    """The innermost model that holds all `parts`, its blocks or attention modules.

    A pass runs its forward, whatever heads and wrappers are around it.
    """
    inner = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    holding = [module for module in inner if set(parts) <= set(module.modules())]
    return holding[-1]


def find_attention(model: PreTrainedModel, blocks: list[nn.Module] | str) -> list[nn.Module] | str:
    """The attention module of every block, or the reason why there is not exactly one that can be hooked.

    Where the blocks are not known: those that the model's class declares, if they are as many as its layers.
    """
    declared = _recorded(model, "attentions")
    name = type(model).__name__
    if not declared:
        return outside_the_interface(model)
    if isinstance(blocks, str):
        layers = model.config.get_text_config().num_hidden_layers
        if len(declared) == layers:
            return declared
        return f"unavailable: {name} has {len(declared)} attention modules, expected one in each of {layers} blocks"
    inside = [[module for module in block.modules() if module in declared] for block in blocks]
    numbers = sorted({len(found) for found in inside})
    if numbers != [1]:
        return f"unavailable: {name} has {' or '.join(map(str, numbers))} attention modules in a block, expected one"
    return [found[0] for found in inside]


def outside_the_interface(model: PreTrainedModel) -> str:
    """The reason why nothing is seen of a model that computes its attention in its own way."""
    return f"unavailable: {type(model).__name__} computes its attention without transformers' AttentionInterface"


def _recorded(model: PreTrainedModel, what: str) -> list[nn.Module]:
    """The modules that the model's class names as the source of `what`, in the order of registration."""
    declaration = model.can_record_outputs.get(what)
    recorders = [_as_recorder(one) for one in (declaration if isinstance(declaration, list) else [declaration])]
    return [
        module
        for name, module in model.named_modules()
        if any(recorder is not None and _matches(recorder, name, module) for recorder in recorders)
    ]


def _as_recorder(declaration: Any) -> OutputRecorder | None:
    if declaration is None or isinstance(declaration, OutputRecorder):
        return declaration
    return OutputRecorder(target_class=declaration) if isinstance(declaration, type) else None


def _matches(recorder: OutputRecorder, name: str, module: nn.Module) -> bool:
    if recorder.layer_name is not None and f".{recorder.layer_name.strip('.')}." not in f".{name}.":
        return False
    return recorder.target_class is not None and isinstance(module, recorder.target_class)
