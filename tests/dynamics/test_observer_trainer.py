"""The observer as a callback of transformers' Trainer: which steps it measures, and of which weights."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator

import ontogeny
from ontogeny.errors import OntogenyError
from tests.byte_tokenizer import byte_tokenizer
from tests.models import tiny, token_ids
from tests.trainings import SMALL, seed_all, trainee


def make_trainer(model, folder, callbacks, tokenizer=None, **options):
    seed_all()
    rows = [{"input_ids": row, "labels": row} for row in token_ids(20, 16)]
    settings = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True,
        lr_scheduler_type="constant", logging_steps=1,
        **{"save_strategy": "no", "max_steps": 5, "learning_rate": 1e-2, **options},
    )  # fmt: skip
    return Trainer(
        model,
        settings,
        train_dataset=rows,
        eval_dataset=rows[:4],
        callbacks=callbacks,
        processing_class=tokenizer,
        data_collator=default_data_collator,
    )


def test_the_dataset_is_that_of_a_scan_of_the_trainers_checkpoints(tmp_path):
    options = {"sequences": 3, "length": 24}
    model = tiny("gpt2", vocab_size=300).train().requires_grad_(True)
    watching = ontogeny.Observer(steps="2,4", **options)
    make_trainer(model, tmp_path, [watching], byte_tokenizer(), save_strategy="steps", save_steps=2).train()
    observed, scan = watching.scan.dataset, ontogeny.scan(str(tmp_path), steps="2,4", **options).dataset
    assert scan.attrs["corpus"] == observed.attrs["corpus"] == "builtin"
    assert scan.step.values.tolist() == observed.step.values.tolist() == [2, 4]
    assert set(scan.data_vars) == set(observed.data_vars)
    for name in scan.data_vars:
        np.testing.assert_array_equal(scan[name], observed[name], err_msg=name)


def test_it_begins_with_step_0_and_ends_with_the_last(tmp_path):
    watching = ontogeny.Observer(**SMALL)
    make_trainer(trainee("gpt2"), tmp_path, [watching], max_steps=7).train()
    assert watching.scan.dataset.step.values.tolist() == [0, 1, 2, 4, 7]


def test_a_training_that_stops_early_ends_with_its_last_step(tmp_path):
    class Stop(TrainerCallback):
        def on_evaluate(self, args, state, control, **others):
            control.should_training_stop = state.global_step == 3

    watching = ontogeny.Observer(**SMALL)
    make_trainer(trainee("gpt2"), tmp_path, [watching, Stop()], eval_strategy="steps", eval_steps=1).train()
    assert watching.scan.dataset.step.values.tolist() == [0, 1, 2, 3]


BEST = {
    "load_best_model_at_end": True, "metric_for_best_model": "loss", "eval_strategy": "steps", "save_strategy": "steps",
    "eval_steps": 1, "save_steps": 1, "learning_rate": 3.0,
}  # fmt: skip


def test_the_best_checkpoint_is_not_taken_for_the_last_step(tmp_path):
    """Where a Trainer loads its best checkpoint at the end, the model is no longer that of the last step."""
    watching = ontogeny.Observer(**SMALL)
    callbacks = [watching, EarlyStoppingCallback(2)]
    trainer = make_trainer(trainee("gpt2", noisy=False), tmp_path, callbacks, max_steps=100, **BEST)
    trainer.train()
    last = trainer.state.global_step
    assert last < 100 and last.bit_count() > 1
    assert trainer.state.best_global_step < last
    assert last not in watching.scan.dataset.step


def test_the_last_step_is_measured_before_the_best_checkpoint_is_loaded(tmp_path):
    watching, every = ontogeny.Observer(**SMALL), ontogeny.Observer(steps="all", **SMALL)
    trainer = make_trainer(trainee("gpt2", noisy=False), tmp_path, [watching, every], max_steps=3, **BEST)
    trainer.train()
    assert trainer.state.best_global_step < 3
    assert watching.scan.dataset.sel(step=3).identical(every.scan.dataset.sel(step=3))


def test_a_resumed_training_goes_on_with_its_scan(tmp_path):
    out, saving = tmp_path / "scan", {"save_strategy": "steps", "save_steps": 2}
    whole = ontogeny.Observer(steps="all", **SMALL)
    make_trainer(trainee("llama", noisy=False), tmp_path / "whole", [whole], max_steps=4, **saving).train()
    make_trainer(
        trainee("llama", noisy=False),
        tmp_path / "run",
        [ontogeny.Observer(out, steps="all", **SMALL)],
        max_steps=2,
        **saving,
    ).train()
    resumed = ontogeny.Observer(out, steps="all", **SMALL)
    make_trainer(trainee("llama", seed=5, noisy=False), tmp_path / "run", [resumed], max_steps=4, **saving).train(
        resume_from_checkpoint=True
    )
    found = resumed.scan.dataset.drop_vars("checkpoint")
    np.testing.assert_array_equal(found.step, [0, 1, 2, 3, 4])
    for name in ("median_activation", "attention_max"):
        np.testing.assert_array_equal(found[name], whole.scan.dataset[name], err_msg=name)


def test_another_training_is_refused_as_it_begins(tmp_path):
    watching = ontogeny.Observer(**SMALL)
    make_trainer(trainee("gpt2"), tmp_path, [watching]).train()
    trainer = make_trainer(trainee("gpt2", seed=1), tmp_path, [watching])
    with pytest.raises(OntogenyError, match="another training: at step 0"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_only_the_main_process_measures(tmp_path):
    watching = ontogeny.Observer(**SMALL)
    trainer = make_trainer(trainee("gpt2"), tmp_path, [watching], max_steps=2)
    trainer.is_world_process_zero = lambda: False

    class Other(TrainerCallback):
        def on_train_begin(self, args, state, control, **others):
            state.is_world_process_zero = False

    trainer.callback_handler.callbacks.insert(0, Other())
    trainer.train()
    with pytest.raises(OntogenyError, match="no measured step"):
        _ = watching.scan
