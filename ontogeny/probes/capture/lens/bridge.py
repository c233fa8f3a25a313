"""What must be known of a TransformerLens model before it is measured."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError

OTHERWISE = "capture the transformers model instead, before TransformerLens wraps it"
PROCESSED = (
    "TransformerLens has folded or centred the weights of this model: its value norms and its residual stream are not "
    "those of the checkpoint; a bridge without enable_compatibility_mode() shows these"
)


def as_bridge(model: Any) -> Any | None:
    """The model if it is a TransformerBridge, None if it is not of TransformerLens.

    Raises OntogenyError for the models of TransformerLens before 4 and for bridges without a transformers model.
    """
    bridge = getattr(sys.modules.get("transformer_lens.model_bridge"), "TransformerBridge", None)
    if bridge is None or not isinstance(model, bridge):
        if not type(model).__module__.startswith("transformer_lens."):
            return None
        raise OntogenyError(
            f"expected a TransformerBridge of TransformerLens 4 or later, got {type(model).__name__}: load the model "
            "with TransformerBridge.boot_transformers(name)"
        )
    if not isinstance(model.original_model, PreTrainedModel):
        raise OntogenyError(
            f"expected a TransformerBridge around a transformers model, got one around "
            f"{type(model.original_model).__name__}: what its attention hides cannot be known"
        )
    return model


def notes_on(bridge: Any) -> dict[str, str]:
    """What a dataset must say of the model. Raises OntogenyError where it cannot be known."""
    processed = getattr(bridge, "_weights_processed", None)
    if processed is None:
        raise OntogenyError(
            "this release of TransformerLens does not tell whether it has folded the weights: expected one that does, "
            f"such as 4.3, or {OTHERWISE}"
        )
    return {"weights_processed": PROCESSED} if processed else {}


def refuse_hidden_padding(bridge: Any, tokens: Tensor) -> None:
    """Raise OntogenyError where some sequences of a batch end in padding, and no mask says so."""
    padding = getattr(bridge.tokenizer, "pad_token_id", None)
    ends = tokens[:, -1] == padding if padding is not None else torch.zeros(len(tokens), dtype=torch.bool)
    if bool(ends.any()) and not bool(ends.all()):
        raise OntogenyError(
            "sequences of this batch end in padding that the model sees as tokens: TransformerLens masks padding on "
            "the left only; give texts of one length, padding_side='left', or an attention_mask"
        )


def output_projection(bridge: Any, layer: int) -> nn.Module:
    """The module of the model inside that a layer's attention is handed on to."""
    return bridge.blocks[layer].attn.o.original_component
