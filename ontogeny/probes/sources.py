"""What can be measured: a model on token ids, or what passes have left behind already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from ontogeny.archspec import LEARNED_POSITIONS
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes.batches import TOKENS_A_PASS, Batches
from ontogeny.probes.capture import Trace, capture, run_pass, trace_of, trace_of_arrays
from ontogeny.probes.capture.given import as_mask, as_token_ids
from ontogeny.probes.capture.lens import as_bridge

ARRAYS = [name for name in signature(trace_of_arrays).parameters if name != "needs"]
EXPECTED = (
    "a transformers model or a TransformerBridge with input_ids, a Trace, an ActivationCache, or a mapping of arrays "
    f"({', '.join(ARRAYS)})"
)


@dataclass(frozen=True)
class ModelOnTokens:
    """A transformers model or a TransformerBridge and whole sequences for it: ids (N, T), `valid` False at padding."""

    model: Any
    ids: Tensor
    valid: Tensor | None

    @classmethod
    def of(cls, model: Any, input_ids: Any, attention_mask: Any) -> ModelOnTokens:
        """What a user gave. Raises OntogenyError for what are no token ids of this model, or no padding of them."""
        if input_ids is None:
            raise OntogenyError(
                f"input_ids: expected token ids (N, T) for the {type(model).__name__} to run on, got none"
            )
        if isinstance(input_ids, Mapping):
            raise OntogenyError("input_ids: expected token ids (N, T), got a mapping: give what it holds, **tokens")
        ids = as_token_ids("input_ids", input_ids)
        valid = None if attention_mask is None else as_mask("attention_mask", attention_mask, (len(ids), ids.shape[1]))
        _refuse_unknown_to(_transformers_model(model), ids)
        return cls(model, ids, None if valid is None or bool(valid.all()) else valid)

    def batches(self, size: int | None) -> Batches:
        """So many sequences a pass, None for about 4096 tokens; padding, where there is any, goes beside the ids."""
        if size is not None and not (isinstance(size, int) and size >= 1):
            raise UsageError(f"batch_size: expected a whole number of sequences, at least 1, or None, got {size!r}")
        both = self.ids if self.valid is None else torch.stack([self.ids, self.valid.to(self.ids)], dim=1)
        device = _transformers_model(self.model).device
        return Batches(both, size or max(1, TOKENS_A_PASS // self.ids.shape[1]), device)

    def run(self, batch: Tensor, needs: Collection[str]) -> Trace:
        """The trace of one of the batches."""
        ids, mask = (batch, None) if batch.ndim == 2 else batch.unbind(1)
        if isinstance(self.model, PreTrainedModel):
            return run_pass(self.model, ids, mask, needs=needs)
        with capture(self.model, needs=needs) as trace:
            self.model(ids, attention_mask=mask)
        return trace

    @property
    def without_experiments(self) -> str | None:
        """Why experiments cannot be made with it, None where they can."""
        if not isinstance(self.model, PreTrainedModel):
            return f"it runs a transformers model again, got a {type(self.model).__name__}"
        return None if self.valid is None else "it runs whole sequences without padding, got an attention_mask"


def as_model(source: Any) -> Any | None:
    """The source if it is a model that can be run, None if it is something that passes have left behind.

    Raises OntogenyError for a model of another kind.
    """
    if isinstance(source, PreTrainedModel):
        return source
    if isinstance(source, Trace | Mapping) or _is_cache(source):
        return None
    bridge = as_bridge(source)
    if bridge is None:
        raise OntogenyError(f"expected {EXPECTED}, got {type(source).__name__}")
    return bridge


def as_trace(source: Any, needs: Collection[str]) -> Trace:
    """The trace of what passes have left behind: a Trace, an ActivationCache or a mapping of arrays.

    Raises OntogenyError for a mapping that does not hold these.
    """
    if isinstance(source, Trace):
        return source
    if _is_cache(source):
        return trace_of(source, needs=needs)
    if isinstance(source, ModelOutput):
        raise OntogenyError(
            f"expected {EXPECTED}, got a {type(source).__name__}, which does not say what its tensors are: give the "
            "model with input_ids, or name what you have, as {'attention': output.attentions, 'input_ids': ...}"
        )
    unknown = [str(name) for name in source if name not in ARRAYS]
    if unknown:
        raise OntogenyError(f"expected arrays among {', '.join(ARRAYS)}, got {', '.join(unknown)}")
    return trace_of_arrays(**source, needs=needs)


def _is_cache(source: Any) -> bool:
    return hasattr(source, "cache_dict")


def _transformers_model(model: Any) -> PreTrainedModel:
    return model if isinstance(model, PreTrainedModel) else model.original_model


def _refuse_unknown_to(model: PreTrainedModel, ids: Tensor) -> None:
    config = model.config.get_text_config()
    vocabulary = getattr(config, "vocab_size", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        raise OntogenyError(f"input_ids: expected ids from 0 to {(vocabulary or 0) - 1}, got {low} to {high}")
    longest = getattr(config, "max_position_embeddings", None)
    if config.model_type in LEARNED_POSITIONS and longest is not None and ids.shape[1] > longest:
        raise OntogenyError(f"input_ids: expected sequences of at most {longest} tokens, got {ids.shape[1]}")
