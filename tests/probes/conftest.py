"""Models of TransformerLens, and masks for eager attention in float64."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from transformers import AttentionMaskInterface, PreTrainedTokenizerFast
from transformers.masking_utils import eager_mask

from tests.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def boot(tmp_path_factory):
    """A function from a transformers model to a bridge around it, made without a network."""
    logger = logging.getLogger("transformers")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import and its loader warn about their own dependencies
        from transformer_lens.model_bridge import TransformerBridge
    logger.setLevel(level)  # its import silences transformers
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, pad_token="<s>")

    def boot_transformers(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"hf_model": model, "device": "cpu", "tokenizer": tokenizer, "dtype": model.dtype}
            return TransformerBridge.boot_transformers("tiny", **options)

    return boot_transformers


@pytest.fixture
def finite_eager_masks(monkeypatch):
    """Eager masks hold the dtype's minimum; float64's becomes -inf in a float32 softmax, and a whole row of it NaN."""

    def floor_of_float32(**arguments):
        return eager_mask(**{**arguments, "dtype": torch.float32})

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "eager", floor_of_float32)
