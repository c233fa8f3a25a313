"""The loss of a causal language model on a corpus, sequence by sequence, as it is and under interventions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import Trace
from ontogeny.probes.capture.context import evaluating
from ontogeny.probes.capture.finite import require_finite
from ontogeny.probes.experiment import UnavailableError

LOGITS_AT_ONCE = 2**26

# Of the sequences that a pass runs on, the context in which it is to run.
Intervention = Callable[[slice], AbstractContextManager[None]]


def untouched(_sequences: slice) -> AbstractContextManager[None]:
    """No intervention."""
    return nullcontext()


def corpus_losses(model: PreTrainedModel, batches: Batches, intervention: Intervention = untouched) -> np.ndarray:
    """Each sequence's next-token cross entropy, mean over its T - 1 predicted tokens, in nats: (N,), float64.

    From the model's own logits, in float32 at least. Every pass runs inside `intervention` of its sequences. Raises
    OntogenyError where a loss is not finite, or memory does not suffice for one sequence.
    """
    done = 0

    def run(batch: Tensor) -> Tensor:
        nonlocal done
        parts = batch.split(_sequences_at_once(model, batch.shape[1]))
        starts = itertools.accumulate(map(len, parts), initial=done)
        losses = []
        for start, part in zip(starts, parts, strict=False):
            with intervention(slice(start, start + len(part))):
                losses.append(_losses(model, part))
        done += len(batch)
        return torch.cat(losses)

    with evaluating(model, model.base_model):
        return torch.cat(batches.each(run)).numpy()


def require_head(model: PreTrainedModel) -> None:
    """Raise UnavailableError where the model has no head that gives logits."""
    if model.get_output_embeddings() is None:
        raise UnavailableError(f"{type(model).__name__} has no output head, so that it has no loss")


def require_causal(model: PreTrainedModel, trace: Trace) -> None:
    """Raise UnavailableError unless the model predicts the next token: no key is seen from before it.

    Where the attention of the `trace` was not captured, its class must be one of transformers' causal language models.
    """
    if trace.layers:
        causal = all(bool((layer.visible_rows[..., -1] <= 1).all()) for layer in trace.layers)
    else:
        causal = any(one.__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for one in type(model).__mro__)
    if not causal:
        raise UnavailableError(
            f"{type(model).__name__} sees the tokens that it would have to predict: expected a causal language model"
        )


def _sequences_at_once(model: PreTrainedModel, length: int) -> int:
    return max(1, LOGITS_AT_ONCE // (length * model.config.get_text_config().vocab_size))


def _losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The loss of each sequence (B,), float64, on the host; ids (B, T)."""
    given = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, return_dict=True).logits
    losses = []
    for logits, sequence in zip(given, ids, strict=True):
        exact = logits[:-1] if logits.dtype == torch.float64 else logits[:-1].float()
        losses.append(cross_entropy(exact, sequence[1:], reduction="none").double().mean())
    found = torch.stack(losses).cpu()
    require_finite(found)
    return found
