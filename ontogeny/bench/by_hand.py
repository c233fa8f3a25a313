"""The statistics of one forward pass as one would get them without Ontogeny: every map kept, then reduced."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

RANKS = 3


def from_transformers(model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    """`output_attentions` and `output_hidden_states` of a model without its head, reduced."""
    found = model.base_model(input_ids=ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    return _reduced(torch.stack(found.attentions, 1), torch.stack(found.hidden_states[:-1], 1))


def from_transformer_lens(bridge: Any, ids: Tensor) -> dict[str, Tensor]:
    """`run_with_cache` of a TransformerBridge, output head and all, its patterns and residual stream reduced."""
    _, cache = bridge.run_with_cache(ids)
    layers = range(len(bridge.blocks))
    return _reduced(
        torch.stack([cache["pattern", layer] for layer in layers], 1),
        torch.stack([cache["resid_pre", layer] for layer in layers], 1),
    )


def lens_bridge(model: PreTrainedModel) -> Any:
    """A TransformerBridge around the model, with a tokenizer of one word: it is run on ids alone."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
    with TemporaryDirectory() as folder, warnings.catch_warnings(), _same_loudness():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="word", bos_token="word").save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return TransformerBridge.boot_transformers("bench", hf_model=model, tokenizer=tokenizer, device=model.device)


@contextmanager
def _same_loudness() -> Iterator[None]:
    """TransformerLens silences the logger of transformers when it is imported."""
    logger = logging.getLogger("transformers")
    level = logger.level
    yield
    logger.setLevel(level)


def _reduced(maps: Tensor, states: Tensor) -> dict[str, Tensor]:
    """Maps (B, L, H, T, T) and residual states (B, L, T, width), causal, without padding."""
    i = torch.arange(maps.shape[-1], device=maps.device, dtype=maps.dtype)
    size = states.abs().flatten(2)
    return {
        "sink_score": maps.sum(-2) / (len(i) - i),
        "entropy": torch.special.entr(maps).sum(-1).mean(-1),
        "row_max": maps.amax(-1).mean(-1),
        "participation": (maps.norm(dim=-1) ** -2).mean(-1),
        "distance": torch.einsum("blhij,ij->blh", maps, (i[:, None] - i).abs()) / len(i),
        "top_activation": size.topk(RANKS, dim=-1).values,
        "median_activation": size.median(-1).values,
    }
