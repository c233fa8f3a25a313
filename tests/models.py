"""Random tiny models of several families: untrained, but with every quirk of their architecture."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel

VOCAB = 60
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2_SIZES = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}

FAMILIES = {
    "gpt_neox": ("GPTNeoX", SIZES),
    "llama": ("Llama", GROUPED),
    "gpt2": ("GPT2", GPT2_SIZES),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 9}),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 9, "attn_logit_softcapping": 1.5}),
    "opt": (
        "OPT",
        {**{k: v for k, v in SIZES.items() if k != "intermediate_size"}, "ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "bert": ("Bert", SIZES),
    "gpt_oss": (
        "GptOss",
        {**GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 9},
    ),
}
HEADS = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}


def tiny(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model of the family, with logits spread enough that attention is far from uniform."""
    name, sizes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**sizes, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, HEADS.get(family, f"{name}ForCausalLM"))(config).eval().requires_grad_(False)
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.mul_(6.0)
        if parameter_name.endswith("sinks"):
            parameter.normal_()
    return model


def tiny_falcon(seed: int = 0) -> PreTrainedModel:
    """A model whose attention does not go through transformers' interface."""
    torch.manual_seed(seed)
    sizes = {k: v for k, v in SIZES.items() if k != "intermediate_size"}
    return transformers.FalconForCausalLM(transformers.FalconConfig(**sizes)).eval().requires_grad_(False)


def token_ids(sequences: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids (sequences, length), special ones left out."""
    return torch.randint(3, VOCAB, (sequences, length), generator=torch.Generator().manual_seed(seed))
