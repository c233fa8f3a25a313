"""Tiny transformers models, set by hand, of which it is known by what a head chooses its sink at position 0.

Two dimensions of every state hold +-BALLAST, so that a layer norm, whose weight undoes the scale that this gives it,
leaves the others as they are. What the sink is known by lies in dimension MARK; one head of one block has a constant
query and keys that are this dimension. All other weights are small noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

BALLAST = 10.0
NOISE = 0.01
MARK = 2
CLASSES = 6
CLASS = slice(3, 3 + CLASSES)
HISTOGRAM = slice(3 + CLASSES, 3 + 2 * CLASSES)
VOCAB = 30
SPECIAL = VOCAB - 1
SCORE = 14.0  # of the marked key; others have about 0
HEAD_DIM = 8
SLOWEST = HEAD_DIM // 2 - 1  # a head's dimension that rotary encodings rotate least
SLOW = 0.08  # radians a token, where a head is to tell near from far


@dataclass(frozen=True)
class Planted:
    """A model, its sequences (N, T), and the block and head that has a sink in each of them."""

    model: PreTrainedModel
    ids: Tensor
    layer: int
    head: int


def plant_feature(family: str, seed: int) -> Planted:
    """The sink is where the token SPECIAL stands, the first of every sequence."""
    model, ids, layer, head = _begin(family, seed)
    ids[:, 0] = SPECIAL
    model.get_input_embeddings().weight[SPECIAL, MARK] = 1.0
    _look_at_mark(model, layer, head)
    return Planted(model, ids, layer, head)


def plant_positional(family: str, seed: int) -> Planted:
    """The sink is where the encoding of the first position is: a learned one, or the farthest of rotary ones."""
    if family in ("llama", "gpt_neox"):
        theta = SLOW ** (-HEAD_DIM / (HEAD_DIM - 2))
        model, ids, layer, head = _begin(family, seed, rope_theta=theta)
        _set_head(model, layer, head, SLOWEST, query=17.0, key_bias=-17.0)
    else:
        model, ids, layer, head = _begin(family, seed)
        _learned_positions(model)[0, MARK] = 1.0
        _look_at_mark(model, layer, head)
    return Planted(model, ids, layer, head)


def plant_joint(family: str, seed: int) -> Planted:
    """The sink is where SPECIAL stands with the first position's encoding: either alone is half a mark, and not enough.

    Dimension 3 holds what block 0 turns into a mark where it is above 1.5.
    """
    model, ids, layer, head = _begin(family, seed, after=1)
    ids[:, 0] = SPECIAL
    model.get_input_embeddings().weight[SPECIAL, 3] = 1.0
    _learned_positions(model)[0, 3] = 1.0
    _fire(model, 3, above=1.5, at=2.0)
    _look_at_mark(model, layer, head)
    return Planted(model, ids, layer, head)


def plant_causal(family: str, seed: int, *, encodings: bool = True) -> Planted:
    """The sink is where the mean over what a token and its predecessors are is one class: at the first, by causality.

    Block 0 averages the tokens' classes by uniform attention, and marks where one class has more than 0.75 of them.
    """
    model, ids, layer, head = _begin(family, seed, after=1)
    classes = torch.arange(VOCAB) % CLASSES
    model.get_input_embeddings().weight[:, CLASS] = nn.functional.one_hot(classes, CLASSES).float()
    # Whichever of the tokens at 0 and at the slots in use comes first, the second one is of another class.
    ids[:, 1] = (classes[ids[:, 0]] + 1) % CLASSES
    same = classes[ids] == classes[ids[:, 1:2]]
    ids[:, 2:][same[:, 2:]] += 1
    if not encodings:
        _learned_positions(model).zero_()
    _average_classes(model)
    for one in range(CLASSES):
        _fire(model, HISTOGRAM.start + one, above=0.75, at=1.0, neuron=one)
    _look_at_mark(model, layer, head)
    return Planted(model, ids, layer, head)


def previous_token_model(length: int) -> PreTrainedModel:
    """A GPT-2 of one block, both of whose heads look at the previous token and nowhere else."""
    width = 2 * length
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=width, n_layer=1, n_head=2, n_positions=length)
    model = transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)
    model.transformer.wte.weight.zero_()
    model.transformer.wpe.weight.copy_(torch.eye(length, width))
    query, key, _ = model.transformer.h[0].attn.c_attn.weight.zero_().split(width, dim=1)
    for head in range(2):
        query[1:length, head * length : (head + 1) * length - 1] = 40 * torch.eye(length - 1)
        key[:length, head * length : (head + 1) * length] = torch.eye(length)
    return model


def _begin(family: str, seed: int, after: int = 0, **changes: float) -> tuple[PreTrainedModel, Tensor, int, int]:
    """A model of random size and noise, sequences without SPECIAL, and a block from `after` on and a head to set."""
    draw = random.Random(seed)
    layers, heads, length = draw.randint(after + 1, 3), draw.choice([3, 4, 6]), draw.randint(24, 44)
    torch.manual_seed(seed)
    model = _model(family, layers, heads, **changes).eval().requires_grad_(False)
    width = heads * HEAD_DIM
    for name, parameter in model.named_parameters():
        is_norm = any(part in name.lower() for part in ("norm", "ln_"))
        if is_norm and name.endswith("weight"):
            parameter.fill_(BALLAST * (2 / width) ** 0.5)
        else:
            parameter.normal_(std=0.0 if is_norm else NOISE)
    embedding = model.get_input_embeddings().weight
    embedding[:, 0], embedding[:, 1] = BALLAST, -BALLAST
    ids = torch.randint(2 * CLASSES, SPECIAL - 1, (4, length))
    ids[:, 0] = torch.randint(0, 2 * CLASSES, (4,))  # unlike all others, for exchanging equal tokens tells nothing
    return model, ids, draw.randrange(after, layers), draw.randrange(heads)


def _model(family: str, layers: int, heads: int, rope_theta: float = 1e6) -> PreTrainedModel:
    width = heads * HEAD_DIM
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCAB,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=64,
            activation_function="relu",
            bos_token_id=None,
            eos_token_id=None,
        )
        return transformers.GPT2LMHeadModel(config)
    sizes = {"vocab_size": VOCAB, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    if family == "opt":
        config = transformers.OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=width, max_position_embeddings=64)
        return transformers.OPTForCausalLM(config)
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64, "hidden_act": "relu"}
    if family == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    rope = {"rope_type": "default", "rope_theta": rope_theta, "partial_rotary_factor": 1.0}
    if family == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**sizes, num_key_value_heads=heads, rope_parameters=rope, attention_bias=True)
        )
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**sizes, rope_parameters=rope, use_parallel_residual=False)
    )


def _learned_positions(model: PreTrainedModel) -> Tensor:
    """Of a GPT-2, an OPT, or a BERT, from the first token's on."""
    if model.config.model_type == "gpt2":
        return model.transformer.wpe.weight
    if model.config.model_type == "opt":
        return model.model.decoder.embed_positions.weight[2:]
    return model.bert.embeddings.position_embeddings.weight


def _projections(model: PreTrainedModel, layer: int, head: int) -> list[tuple[Tensor, Tensor]]:
    """Views of the weight (dh, d) and bias (dh,) of one head's query, key and value."""
    kind, rows = model.config.model_type, slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    if kind == "gpt2":
        joint = model.transformer.h[layer].attn.c_attn
        split = len(joint.bias) // 3
        return [
            (w.T[rows], b[rows]) for w, b in zip(joint.weight.split(split, 1), joint.bias.split(split), strict=True)
        ]
    if kind == "gpt_neox":
        joint = model.gpt_neox.layers[layer].attention.query_key_value
        own = slice(3 * head * HEAD_DIM, 3 * (head + 1) * HEAD_DIM)
        pairs = zip(joint.weight[own].split(HEAD_DIM), joint.bias[own].split(HEAD_DIM), strict=True)
        return list(pairs)
    if kind == "bert":
        inside = model.bert.encoder.layer[layer].attention.self
        linear = [inside.query, inside.key, inside.value]
    else:
        block = model.model.decoder.layers[layer] if kind == "opt" else model.model.layers[layer]
        linear = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
    return [(one.weight[rows], one.bias[rows]) for one in linear]


def _set_head(model: PreTrainedModel, layer: int, head: int, at: int, query: float, key_bias: float = 0.0) -> None:
    """A constant query, and keys of no token, in the head's dimension `at`."""
    (query_weight, query_bias), (key_weight, bias), _ = _projections(model, layer, head)
    for one in (query_weight, query_bias, key_weight, bias):
        one.zero_()
    query_bias[at], bias[at] = query, key_bias


def _look_at_mark(model: PreTrainedModel, layer: int, head: int) -> None:
    _set_head(model, layer, head, SLOWEST, query=SCORE * HEAD_DIM**0.5)
    _projections(model, layer, head)[1][0][SLOWEST, MARK] = 1.0


def _average_classes(model: PreTrainedModel) -> None:
    """Block 0's head 0 attends to all predecessors alike, and writes the mean of their classes into HISTOGRAM."""
    _set_head(model, 0, 0, SLOWEST, query=0.0)
    value, bias = _projections(model, 0, 0)[2]
    value.zero_()
    bias.zero_()
    value[:CLASSES, CLASS] = torch.eye(CLASSES)
    if model.config.model_type == "gpt2":
        model.transformer.h[0].attn.c_proj.weight.T[HISTOGRAM, :CLASSES] = torch.eye(CLASSES)
    elif model.config.model_type == "opt":
        model.model.decoder.layers[0].self_attn.out_proj.weight[HISTOGRAM, :CLASSES] = torch.eye(CLASSES)
    else:
        model.gpt_neox.layers[0].attention.dense.weight[HISTOGRAM, :CLASSES] = torch.eye(CLASSES)


def _fire(model: PreTrainedModel, dimension: int, above: float, at: float, neuron: int = 0) -> None:
    """A neuron of block 0 adds 1 to the mark where the dimension is `at`, and nothing where it is not `above` that."""
    if model.config.model_type == "gpt2":
        mlp = model.transformer.h[0].mlp
        into, bias, out = mlp.c_fc.weight.T, mlp.c_fc.bias, mlp.c_proj.weight.T
    elif model.config.model_type == "opt":
        block = model.model.decoder.layers[0]
        into, bias, out = block.fc1.weight, block.fc1.bias, block.fc2.weight
    else:
        mlp = model.gpt_neox.layers[0].mlp
        into, bias, out = mlp.dense_h_to_4h.weight, mlp.dense_h_to_4h.bias, mlp.dense_4h_to_h.weight
    into[neuron], out[:, neuron] = 0.0, 0.0
    into[neuron, dimension], bias[neuron] = 1.0, -above
    out[MARK, neuron] = 1 / (at - above)
