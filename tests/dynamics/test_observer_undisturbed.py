"""A training that is observed is the training that is not: every loss, every stream, every flag."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import ontogeny
from tests.models import token_ids
from tests.trainings import SMALL, checkpoint_activations, seed_all, train, trainee

FAMILIES = ("gpt2", "llama")


def observer(**options):
    return ontogeny.Observer(**{"steps": "all", **SMALL, **options})


def streams():
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loop_has_the_same_losses_bit_for_bit(family):
    alone, observed, watching = trainee(family), trainee(family), observer()
    losses = train(alone)
    drawn = streams()
    assert train(observed, watching) == losses
    assert streams() == drawn
    assert len(set(losses)) == len(losses)
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, observed.state_dict()[name]), name
    assert watching.scan.dataset.step.values.tolist() == list(range(7))
    assert not watching.scan.failures


def run_trainer(model, folder, callbacks=(), **options):
    seed_all()
    rows = [{"input_ids": row, "labels": row} for row in token_ids(24, 16)]
    settings = TrainingArguments(
        output_dir=str(folder), max_steps=5, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True,
        logging_steps=1, report_to=[], disable_tqdm=True, learning_rate=1e-2, **{"save_strategy": "no", **options},
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=rows, callbacks=list(callbacks))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast and gradient checkpointing"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trainer_has_the_same_losses_bit_for_bit(family, mixed, tmp_path):
    alone, observed, watching = trainee(family), trainee(family), observer()
    if mixed:
        for model in (alone, observed):
            checkpoint_activations(model)
    losses = run_trainer(alone, tmp_path, bf16=mixed)
    assert run_trainer(observed, tmp_path, [watching], bf16=mixed) == losses
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, observed.state_dict()[name]), name
    assert len(losses) == 5
    assert watching.scan.dataset.step.values.tolist() == list(range(6))
    assert watching.scan.dataset.attrs["dtype"] == "float32"
    assert not watching.scan.failures


def state(model):
    """Everything about a model in training, and around it, that a measurement could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [list(getattr(module, kind)) for module in model.modules() for kind in hooks],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "requires_grad": [weight.requires_grad for weight in model.parameters()],
        "gradients": [(id(one.grad), one.grad.sum().item()) for one in model.parameters() if one.grad is not None],
        "config": copy.deepcopy(model.config.to_dict()),
        "attention": model.config._attn_implementation,
        "checkpointing": [getattr(module, "gradient_checkpointing", None) for module in model.modules()],
        "modes": (
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled(),
            torch.get_deterministic_debug_mode(), torch.get_num_threads(), list(warnings.filters),
        ),
    }  # fmt: skip


@pytest.fixture
def half_way():
    """A model between two backward passes, with everything set that a training may set."""
    model = trainee("llama")
    model.set_attn_implementation("eager")
    checkpoint_activations(model)
    model.config.use_cache = False
    ids = token_ids(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    return model


def broken(_block, args, kwargs):
    raise KeyboardInterrupt


def test_the_state_of_a_training_is_as_it_was(half_way):
    torch.set_deterministic_debug_mode("warn")
    try:
        before = state(half_way)
        watching = observer()
        watching(half_way, 0)
        assert state(half_way) == before
    finally:
        torch.set_deterministic_debug_mode("default")
    assert watching.scan.dataset.sizes["checkpoint"] == 1


def test_an_interruption_passes_through_and_leaves_the_state_as_it_was(half_way):
    watching = observer()
    watching(half_way, 0)
    half_way.model.layers[1].register_forward_pre_hook(broken, with_kwargs=True)
    seed_all()
    before, drawn = state(half_way), streams()
    seed_all()
    with pytest.raises(KeyboardInterrupt):
        watching(half_way, 1)
    assert streams() == drawn
    assert state(half_way) == before


def test_a_measurement_does_not_need_deterministic_algorithms(half_way):
    """Not every statistic has one on a GPU."""
    modes = []
    half_way.model.layers[0].register_forward_hook(lambda *_: modes.append(torch.get_deterministic_debug_mode()))
    torch.set_deterministic_debug_mode("error")
    try:
        observer()(half_way, 0)
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode("default")
    assert set(modes) == {0}


def test_autocast_changes_no_number_and_goes_on():
    """Whoever calls it under autocast gets the numbers in the parameters' dtype, and autocast goes on."""
    model, plain, watching = trainee("gpt2", noisy=False), observer(), observer()
    plain(model, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        watching(model, 0)
        assert model(input_ids=token_ids(2, 8)).logits.dtype == torch.bfloat16
    assert watching.scan.dataset.attrs["dtype"] == "float32"
    assert watching.scan.dataset.identical(plain.scan.dataset)


def test_a_training_that_diverges_goes_on_and_its_failures_are_listed():
    model, watching = trainee("gpt2"), observer()
    watching(model, 0)
    model.transformer.h[1].mlp.c_fc.weight.data.fill_(torch.nan)
    with pytest.warns(UserWarning, match=r"step 1 of training was not measured \(the forward pass gave values") as told:
        for step in range(1, 4):
            watching(model, step)
    assert len(told) == 1
    assert list(watching.scan.failures) == ["step1", "step2", "step3"]
    assert watching.scan.dataset.step.values.tolist() == [0]
