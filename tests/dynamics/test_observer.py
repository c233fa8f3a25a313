"""What an observer measures is what a scan of the training's checkpoints measures, and it is kept as a scan is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ontogeny
from ontogeny.cli.main import app
from ontogeny.dynamics.steps import is_reached
from ontogeny.errors import OntogenyError, UsageError
from tests.byte_tokenizer import byte_tokenizer
from tests.models import tiny, tiny_falcon
from tests.trainings import SMALL, seed_all, train, trainee

VERDICT = ["verdict", "verdict_reason"]


def train_and_save(model, watching, folder, steps=4):
    """Observe a training, and save a checkpoint wherever it is observed."""

    def both(model, step):
        watching(model, step)
        model.save_pretrained(folder / f"step{step}")

    return train(model, both, steps)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_dataset_is_that_of_a_scan_of_saved_checkpoints(family, tmp_path):
    folder, options = tmp_path / "tiny", {**SMALL, "batch_size": 2, "positions": 5}
    watching = ontogeny.Observer(steps="all", name="tiny", **options)
    train_and_save(trainee(family, noisy=False), watching, folder)
    seed_all()
    scan = ontogeny.scan(str(folder), **options)
    assert watching.scan.dataset.attrs.pop("source") == "training of tiny"
    assert scan.dataset.attrs.pop("source") == str(folder)
    observed = watching.scan.dataset
    observed.attrs.pop("source")
    assert observed.attrs == scan.dataset.attrs
    assert set(observed.verdict.values) == {"unaudited"}  # there is no file to audit
    assert observed.drop_vars(VERDICT, errors="ignore").identical(scan.dataset.drop_vars(VERDICT, errors="ignore"))
    assert len(np.unique(observed.massive_ratio.mean(("sequence", "depth")))) == 5


def test_text_is_tokenized_as_a_scan_does(tmp_path):
    model = tiny("gpt2", vocab_size=300).train().requires_grad_(True)
    options = {"sequences": 3, "length": 24, "bos": "always", "probes": ["sinks"]}
    watching = ontogeny.Observer(tokenizer=byte_tokenizer(), steps="1,2", name="tiny", **options)
    train_and_save(model, watching, tmp_path / "tiny", steps=2)
    byte_tokenizer().save_pretrained(tmp_path / "tiny" / "step2")
    scan = ontogeny.scan(str(tmp_path / "tiny"), steps="1,2", **options)
    assert watching.scan.dataset.attrs["corpus"] == "builtin"
    assert {**watching.scan.dataset.attrs, "source": ""} == {**scan.dataset.attrs, "source": ""}
    assert watching.scan.dataset.drop_vars(VERDICT, errors="ignore").equals(
        scan.dataset.drop_vars(VERDICT, errors="ignore")
    )


def test_fit_report_and_open_scan_read_what_it_wrote(tmp_path):
    out = tmp_path / "scan"
    watching = ontogeny.Observer(out, steps="all", **SMALL)
    train(trainee("llama"), watching)
    assert ontogeny.open_scan(out).dataset.identical(watching.scan.dataset)
    assert ontogeny.fit(watching.scan).equals(ontogeny.fit(ontogeny.open_scan(out)))
    for command in (["fit", str(out), "--json"], ["report", str(out), "--out", str(tmp_path / "report.html")]):
        assert CliRunner().invoke(app, command).exit_code == 0
    assert "training" in (tmp_path / "report.html").read_text()


def test_what_a_killed_training_measured_is_kept_and_gone_on_with(tmp_path):
    model, whole = trainee("gpt2", noisy=False), ontogeny.Observer(steps="all", **SMALL)
    train_and_save(model, whole, tmp_path / "saved", steps=5)
    out, killed = tmp_path / "scan", trainee("gpt2", noisy=False)
    train(killed, ontogeny.Observer(out, steps="all", **SMALL), steps=3)
    kept = {file: file.stat().st_mtime_ns for file in (out / "checkpoints").rglob("*")}
    resumed = ontogeny.Observer(out, steps="all", **SMALL)
    for step in range(2, 6):  # from the checkpoint of step 2 on, so that steps 2 and 3 come again
        resumed(type(killed).from_pretrained(tmp_path / "saved" / f"step{step}"), step)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert resumed.scan.dataset.equals(whole.scan.dataset)


def test_the_numbers_of_another_training_are_refused(tmp_path):
    out = tmp_path / "scan"
    ontogeny.Observer(out, **SMALL)(trainee("gpt2"), 0)
    with pytest.raises(OntogenyError, match=r"scan holds the measurements of another training: at step 0 its weights"):
        ontogeny.Observer(out, **SMALL)(trainee("gpt2", seed=1), 0)
    with pytest.raises(OntogenyError, match=r"other settings \(length 20, not 21\)"):
        ontogeny.Observer(out, **{**SMALL, "length": 21})(trainee("gpt2"), 0)
    with pytest.raises(OntogenyError, match=r"other settings \(source 'training of training', not 'training of seed1'"):
        ontogeny.Observer(out, name="seed1", **SMALL)(trainee("gpt2"), 0)
    watching = ontogeny.Observer(**SMALL)
    train(trainee("gpt2"), watching, steps=2)
    with pytest.raises(OntogenyError, match="this observer holds the measurements of another training"):
        watching(trainee("gpt2", seed=1), 0)
    with pytest.raises(OntogenyError, match=r"other settings \(dtype 'float32', not 'float64'\)"):
        watching(trainee("gpt2").double(), 0)
    train(trainee("gpt2"), watching, steps=3)
    assert watching.scan.dataset.step.values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("steps", "called", "measured"),
    [
        ("log", range(20), [0, 1, 2, 4, 8, 16]),
        ("log", range(0, 200, 10), [0, 10, 20, 40, 70, 130]),
        ("log", range(100, 300), [100, 128, 256]),
        ("0,3,10:16:3", range(20), [0, 3, 10, 13, 16]),
        ("all", range(3, 6), [3, 4, 5]),
    ],
)
def test_steps_are_chosen_as_they_come(steps, called, measured):
    taken = []
    for step in called:
        if is_reached(steps, step, taken):
            taken.append(step)
    assert taken == measured


def test_a_list_of_steps_and_a_step_of_ones_own(tmp_path):
    model, watching = trainee("gpt2"), ontogeny.Observer(steps="0,2", probes=["massive"], **SMALL)
    train(model, watching, steps=3)
    watching.measure(model, 3)
    watching.measure(model, 3)
    assert watching.scan.dataset.step.values.tolist() == [0, 2, 3]
    assert "sink_score" not in watching.scan.dataset


def test_a_failure_is_kept_on_disk_and_struck_out_when_a_resumed_training_measures_the_step(tmp_path):
    out, watching = tmp_path / "scan", ontogeny.Observer(tmp_path / "scan", steps="all", **SMALL)
    sound, bad = trainee("gpt2", noisy=False), trainee("gpt2", noisy=False)
    bad.transformer.h[1].mlp.c_fc.weight.data.fill_(torch.inf)
    with pytest.warns(UserWarning, match="step 0 of training was not measured"):
        watching(bad, 0)
    watching(bad, 1)
    with pytest.raises(OntogenyError, match=r"holds no measured step[\s\S]*step0: the forward pass gave values"):
        _ = watching.scan
    watching(sound, 2)
    watching(bad, 3)
    failed = ["step0", "step1", "step3"]
    assert list(json.loads((out / "failures.json").read_text())) == failed == list(watching.scan.failures)
    resumed = ontogeny.Observer(out, steps="all", **SMALL)
    resumed(sound, 1)
    assert list(ontogeny.open_scan(out).failures) == ["step0", "step3"] == list(resumed.scan.failures)


@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
def test_a_training_that_begins_again_tries_what_failed(kept, tmp_path):
    watching = ontogeny.Observer(None if kept == "in memory" else tmp_path / "scan", steps="all", **SMALL)
    sound, bad = trainee("gpt2", noisy=False), trainee("gpt2", noisy=False)
    bad.transformer.h[1].mlp.c_fc.weight.data.fill_(torch.nan)
    with pytest.warns(UserWarning, match="step 0 of training was not measured"):
        watching(bad, 0)
    watching(bad, 1)
    watching(sound, 0)
    assert watching.scan.dataset.step.values.tolist() == [0]
    assert list(watching.scan.failures) == ["step1"]


def test_a_disk_that_cannot_be_written_stops_no_training(tmp_path, monkeypatch):
    out, watching, model = (
        tmp_path / "scan",
        ontogeny.Observer(tmp_path / "scan", steps="all", **SMALL),
        trainee("gpt2"),
    )
    watching(model, 0)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=r"step 1 .*No space left on device"):
        patch.setattr("xarray.Dataset.to_zarr", full)
        patch.setattr("pathlib.Path.write_text", full)
        watching(model, 1)
    assert list(watching.scan.failures) == ["step1"]
    watching(model, 2)
    assert ontogeny.open_scan(out).dataset.step.values.tolist() == [0, 2]
    assert list(watching.scan.failures) == ["step1"]


def test_a_batch_that_memory_does_not_hold_is_halved_once_for_all_steps():
    watching, batches, model = ontogeny.Observer(steps="all", batch_size=4, sequences=4, length=20), [], trainee("gpt2")

    def scarce(_module, args, kwargs):
        batches.append(len(kwargs["input_ids"]))
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    model.transformer.register_forward_pre_hook(scarce, with_kwargs=True)
    watching(model, 0)
    watching(model, 1)
    assert batches == [4, 2, 2, 2, 2]
    assert watching.scan.dataset.batch_size.values.tolist() == [2, 2]


def test_a_model_whose_attention_cannot_be_hooked_is_measured_on_its_residual_stream():
    watching = ontogeny.Observer(**SMALL)
    watching(tiny_falcon().train(), 0)
    assert watching.scan.dataset.attrs["attention"].startswith("unavailable: FalconModel")
    assert "massive_ratio" in watching.scan.dataset


def test_nothing_is_measured_outside_the_main_process(monkeypatch):
    watching = ontogeny.Observer(**SMALL)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    train(trainee("gpt2"), watching, steps=1)
    watching.measure(trainee("gpt2"), 5)
    with pytest.raises(OntogenyError, match=r"this observer holds no measured step: .* in the main process"):
        _ = watching.scan


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probes": ["sink"]}, "unknown probe sink"),
        ({"positions": 0}, "at least one position"),
        ({"batch_size": 0}, "at least one sequence in a batch"),
        ({"impl": "fast"}, "unknown implementation 'fast'"),
        ({"sequences": 0}, "at least 1 sequence"),
        ({"length": 1025}, "training has 1024 positions"),
        ({"corpus": "nowhere.txt"}, "there is no corpus"),
    ],
)
def test_requests_that_make_no_sense_are_refused_before_the_first_step(options, words):
    with pytest.raises(UsageError, match=words):
        ontogeny.Observer(**{**SMALL, **options})(trainee("gpt2"), 0)


@pytest.mark.parametrize(
    ("steps", "words"),
    [("sometimes", "steps 'sometimes' cannot be read"), ("0,9:3", "the range of steps '9:3' is empty")],
)
def test_steps_that_cannot_be_read_are_refused_at_once(steps, words):
    with pytest.raises(UsageError, match=words):
        ontogeny.Observer(steps=steps)


@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
def test_a_model_of_another_architecture_halfway_is_a_failure(kept, tmp_path):
    out = None if kept == "in memory" else tmp_path / "scan"
    watching = ontogeny.Observer(out, steps="all", **SMALL)
    watching(trainee("gpt2"), 0)
    with pytest.warns(UserWarning, match="expected checkpoints of one architecture"):
        watching(tiny("gpt2", n_layer=2), 1)
    assert list(watching.scan.failures) == ["step1"]
    assert watching.scan.dataset.sizes["checkpoint"] == 1


@pytest.mark.parametrize("step", [-1, 1.5, True, None])
def test_a_step_is_a_number_of_steps(step):
    with pytest.raises(UsageError, match="step: expected the number of optimizer steps"):
        ontogeny.Observer(**SMALL)(trainee("gpt2"), step)
