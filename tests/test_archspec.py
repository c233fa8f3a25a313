"""Reading an architecture's specification from the configs of many families."""

from __future__ import annotations

import pytest
import transformers

from ontogeny.archspec import ArchSpec
from ontogeny.errors import OntogenyError


def spec(name, **changes):
    return ArchSpec.from_config(getattr(transformers, f"{name}Config")(**changes).to_dict())


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("GPTNeoX", {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
         {"layers": 6, "width": 512, "heads": 8, "kv_heads": 8, "head_dim": 64, "ffn": 2048, "positional": "rotary",
          "norm": "layer", "parallel_residual": True}),
        ("Llama", {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 3},
         {"layers": 3, "kv_heads": 2, "head_dim": 8, "positional": "rotary", "norm": "rms", "tied": False}),
        ("GPT2", {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128},
         {"layers": 2, "width": 48, "heads": 4, "ffn": 192, "positional": "learned", "max_positions": 128}),
        ("Gemma2", {"head_dim": 16, "num_attention_heads": 4, "hidden_size": 32},
         {"head_dim": 16, "heads": 4, "width": 32}),
        ("OPT", {"max_position_embeddings": 99, "ffn_dim": 77},
         {"positional": "learned", "max_positions": 99, "ffn": 77}),
        ("Roberta", {"max_position_embeddings": 34, "pad_token_id": 1}, {"positional": "learned", "max_positions": 32}),
        ("Falcon", {"multi_query": True, "alibi": True}, {"kv_heads": 1, "positional": "alibi"}),
        ("Bert", {}, {"layers": 12, "width": 768, "positional": "learned", "vocab": 30522}),
    ],
)  # fmt: skip
def test_families(name, changes, expected):
    found = spec(name, **changes).to_dict()
    assert {field: found[field] for field in expected} == expected


def test_training_facts_are_not_read_off_defaults():
    found = spec("Llama", dtype="float16", initializer_range=0.5)
    assert (found.dtype, found.init, found.seed, found.batch_tokens) == (None, None, None, None)


def test_a_config_without_sizes_is_refused():
    with pytest.raises(OntogenyError, match="states no `num_hidden_layers`"):
        ArchSpec.from_config({"hidden_size": 8})
