"""Tiny GGUF files for tests: a Llama model as llama.cpp's converter would write it, with a byte-pair vocabulary."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel

TOKENS = ("<s>", "</s>", *"TheĠsunrita.", *"bcdfgjklmopqvwxyz", *"ABCDEFGHIJKLMNOPQRSUVWXYZ")
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_llama(
    path: Path,
    model: PreTrainedModel,
    file_type: int | None = 0,
    quantised: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    left_out: tuple[str, ...] = (),
) -> Path:
    """Write a Llama model to `path`: tensors in `quantised` as Q8_0, the others as F32; return the path.

    `extra` names tensors that no model has; `left_out` names GGUF tensors not to write.
    """
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if file_type is not None:
        writer.add_file_type(file_type)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(_vocabulary(config.vocab_size))
    writer.add_token_merges(["T h", "Th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in model.state_dict().items():
        gguf_name = _gguf_name(name)
        if gguf_name not in left_out:
            _add(writer, gguf_name, _permuted(name, tensor, config), gguf_name in quantised)
    for name in extra:
        _add(writer, name, torch.ones(4), False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(size: int) -> list[str]:
    tokens = [*dict.fromkeys(TOKENS), "Th", "The"]
    return [*tokens, *(f"<{index}>" for index in range(len(tokens), size))][:size]


def _gguf_name(name: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, block, rest = stem.split(".", 3)
        return f"blk.{block}.{_NAMES[rest]}.{suffix}"
    return f"{_NAMES[stem]}.{suffix}"


def _permuted(name: str, tensor: torch.Tensor, config) -> torch.Tensor:
    """Rows of q and k in ggml's order: the two halves of a head's rotary pairs interleaved."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    rows, width = tensor.shape
    return tensor.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, quantised: bool) -> None:
    array = tensor.float().contiguous().numpy()
    if not quantised:
        writer.add_tensor(name, array)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
