"""The shipped weights of `pocket`: what is in the files, and what plain transformers sees in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import GPTNeoXForCausalLM

from ontogeny.dynamics import backcopy, pocket

LAST = pocket.CHECKPOINT_STEPS[-1]


def shipped(step: int) -> Path:
    return pocket.SHIPPED / f"step{step}"


def test_there_are_the_steps_of_the_recipe_and_nothing_else() -> None:
    assert 16 <= len(pocket.CHECKPOINT_STEPS) <= 22
    assert {folder.name for folder in pocket.SHIPPED.iterdir()} == {f"step{s}" for s in pocket.CHECKPOINT_STEPS}
    for folder in pocket.SHIPPED.iterdir():
        assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in pocket.SHIPPED.rglob("*") if file.is_file()) <= 8_000_000


@pytest.mark.parametrize("step", pocket.CHECKPOINT_STEPS)
def test_each_is_finite_float16_with_the_recipes_config(step: int) -> None:
    tensors = load_file(shipped(step) / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    config = json.loads((shipped(step) / "config.json").read_text())
    assert config["architectures"] == ["GPTNeoXForCausalLM"]
    assert config["dtype"] == "float16"
    assert config["vocab_size"] == backcopy.VOCABULARY
    assert config["max_position_embeddings"] == backcopy.LENGTH
    assert config["bos_token_id"] == backcopy.START
    assert "_name_or_path" not in config


def test_all_configs_are_the_same() -> None:
    assert len({(shipped(step) / "config.json").read_bytes() for step in pocket.CHECKPOINT_STEPS}) == 1


def test_no_two_checkpoints_have_the_same_weights() -> None:
    files = {(shipped(step) / "model.safetensors").read_bytes() for step in pocket.CHECKPOINT_STEPS}
    assert len(files) == len(pocket.CHECKPOINT_STEPS)


@dataclass
class Plain:
    """What plain transformers says of one checkpoint: eager maps, float64, 100 held-out sequences."""

    sink_rate: np.ndarray  # (layer, head): share of sequences with alpha_0 > 0.3
    value_norm: np.ndarray  # (layer, head): the start token's, over the mean of the others
    ratio: np.ndarray  # (depth): mean over sequences of max|h| over mean of median|h|; depth 0 is block 0's input
    peak_at_start: np.ndarray  # (depth): share of sequences whose max|h| is at position 0
    loss: tuple[float, float]  # nats a token, off triggers and on triggers


def measure(step: int) -> Plain:
    folder = shipped(step)
    model = GPTNeoXForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    tokens = torch.from_numpy(backcopy.sample(100, 64))
    values: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    for layer in model.gpt_neox.layers:
        layer.attention.query_key_value.register_forward_hook(
            lambda _module, _inputs, out: values.append(out.view(100, 64, heads, 3, width // heads)[:, :, :, 2])
        )
        layer.register_forward_hook(lambda _module, _inputs, out: blocks.append(out))
    with torch.no_grad():
        out = model(tokens, output_attentions=True)
        stream = torch.stack([model.gpt_neox.embed_in(tokens), *blocks]).abs()  # depth, sequence, position, dimension
    scores = torch.stack(out.attentions)[..., 0].mean(dim=-1)  # layer, sequence, head
    norms = torch.stack(values).norm(dim=-1)  # layer, sequence, position, head
    flat = stream.flatten(2)
    losses = torch.nn.functional.cross_entropy(out.logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    copies = torch.from_numpy(backcopy.is_trigger(tokens.numpy()))[:, :-1]
    return Plain(
        sink_rate=(scores > 0.3).double().mean(dim=1).numpy(),
        value_norm=(norms[:, :, 0] / norms[:, :, 1:].mean(dim=2)).mean(dim=1).numpy(),
        ratio=(flat.amax(dim=-1).mean(dim=-1) / flat.median(dim=-1).values.mean(dim=-1)).numpy(),
        peak_at_start=(flat.argmax(dim=-1) < width).double().mean(dim=-1).numpy(),
        loss=(losses[~copies].mean().item(), losses[copies].mean().item()),
    )


@pytest.fixture(scope="module")
def story() -> dict[int, Plain]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {step: measure(step) for step in (0, 64, 96, 256, 1000, LAST)}
    finally:
        torch.set_num_threads(threads)


def test_no_head_has_a_sink_at_the_start_of_training(story: dict[int, Plain]) -> None:
    assert story[0].sink_rate.max() == 0.0


def test_a_sink_forms_abruptly(story: dict[int, Plain]) -> None:
    assert story[64].sink_rate.max() < 0.1
    assert story[96].sink_rate.max() > 0.5


def test_the_sink_stays(story: dict[int, Plain]) -> None:
    for step in (256, 1000, LAST):
        assert story[step].sink_rate.max() > 0.9


def test_the_value_of_the_start_token_drains_in_the_head_of_the_sink(story: dict[int, Plain]) -> None:
    head = np.unravel_index(story[LAST].sink_rate.argmax(), story[LAST].sink_rate.shape)
    assert story[0].value_norm[head] > 0.8
    assert story[LAST].value_norm[head] < 0.3


def test_the_massive_ratio_grows_in_the_middle_of_the_network(story: dict[int, Plain]) -> None:
    assert (story[LAST].ratio[1:3] > 5 * story[0].ratio[1:3]).all()
    assert (story[0].peak_at_start[1:3] < 0.2).all()
    assert (story[LAST].peak_at_start[1:3] == 1.0).all()


def test_the_task_is_learnt(story: dict[int, Plain]) -> None:
    assert min(story[0].loss) > 3.4
    off_triggers, on_triggers = story[LAST].loss
    assert on_triggers < 0.05
    assert off_triggers < 2.7
