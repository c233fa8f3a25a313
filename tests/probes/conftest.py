"""Models of TransformerLens."""

from __future__ import annotations

import logging
import warnings

import pytest
from transformers import PreTrainedTokenizerFast

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
