"""Files of state dicts on this machine: which are checkpoints of the series, and what is left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ontogeny
from ontogeny.dynamics.checkpoint import UNKNOWN_STEP
from ontogeny.dynamics.sources import open_series
from ontogeny.errors import OntogenyError
from tests.checkpoint_folders import edit_config, save_tiny, save_word_tokenizer, to_bin
from tests.models import tiny
from tests.scans import SMALL, Count
from tests.state_dict_files import save_config, save_lightning

BESIDE_WEIGHTS = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt", "training_args.bin"]


def save_pt(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tiny("gpt_neox", seed).state_dict(), file)
    return file


def steps(folder: Path) -> list[tuple[str, int]]:
    return [(one.name, one.step) for one in open_series(str(folder)).checkpoints]


def is_of_seed(checkpoint: ontogeny.Checkpoint, seed: int) -> bool:
    due = tiny("gpt_neox", seed).state_dict()
    return all(torch.equal(tensor, due[name]) for name, tensor in checkpoint.load().state_dict().items())


def test_lightnings_files_are_a_series_with_the_numbers_of_folders(tmp_path: Path) -> None:
    run = save_config(tmp_path / "run", tiny("gpt_neox"))
    for step, seed in ((500, 1), (1000, 2), (16, 3)):
        save_lightning(run / f"epoch=1-step={step}.ckpt", tiny("gpt_neox", seed), step)
        save_tiny(tmp_path / "folders" / f"step{step}", seed=seed)
    save_lightning(run / "last.ckpt", tiny("gpt_neox"), 1000)
    progress = Count()
    scan = ontogeny.scan(str(run), tmp_path / "scan", **SMALL, progress=progress)
    assert scan.failures == {} and scan.dataset.step.values.tolist() == [16, 500, 1000]
    assert scan.dataset.checkpoint.values.tolist() == ["epoch=1-step=16", "epoch=1-step=500", "epoch=1-step=1000"]
    assert "left out, as their names state no step: last.ckpt" in progress.notes
    due = ontogeny.scan(str(tmp_path / "folders"), **SMALL).dataset
    for name in due.data_vars:
        np.testing.assert_array_equal(scan.dataset[name], due[name])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_plain_files_are_a_series(tmp_path: Path, suffix: str) -> None:
    save_config(tmp_path, tiny("gpt_neox"))
    for step in (10, 9):
        save_pt(tmp_path / f"step{step}{suffix}", seed=step)
    assert steps(tmp_path) == [("step9", 9), ("step10", 10)]
    assert all(is_of_seed(one, one.step) for one in open_series(str(tmp_path)).checkpoints)


def test_safetensors_files_are_a_series(tmp_path: Path) -> None:
    save_config(tmp_path, tiny("gpt_neox"))
    save_file(tiny("gpt_neox", 4).state_dict(), tmp_path / "step1000.safetensors")
    (found,) = open_series(str(tmp_path)).checkpoints
    assert (found.name, found.step) == ("step1000", 1000) and is_of_seed(found, 4)


@pytest.mark.parametrize("name", ["model.pt", "checkpoint.ckpt", "pytorch_model.bin", "weights.safetensors"])
@pytest.mark.parametrize("configs", ["own", "parent"])
def test_a_folder_a_step_with_one_file(tmp_path: Path, name: str, configs: str) -> None:
    for step in (0, 5):
        folder = tmp_path / f"step{step}"
        if name.endswith(".safetensors"):
            folder.mkdir()
            save_file(tiny("gpt_neox", step).state_dict(), folder / name)
        else:
            save_pt(folder / name, step)
        (folder / "optimizer.pt").write_bytes(b"never read")
        save_config(folder if configs == "own" else tmp_path, tiny("gpt_neox"))
        if name == "pytorch_model.bin":  # which is read as transformers does: by the class that the config names
            edit_config(folder if configs == "own" else tmp_path, architectures=["GPTNeoXForCausalLM"])
    assert steps(tmp_path) == [("step0", 0), ("step5", 5)]
    assert all(is_of_seed(one, one.step) for one in open_series(str(tmp_path)).checkpoints)


def test_the_parents_config_is_not_used_where_another_disagrees(tmp_path: Path) -> None:
    for step in (1, 2):
        save_tiny(tmp_path / f"step{step}", seed=step)
    (tmp_path / "step1" / "config.json").unlink()
    shutil.copy(tmp_path / "step2" / "config.json", tmp_path)
    first = open_series(str(tmp_path)).checkpoints[0]
    assert is_of_seed(first, 1)
    edit_config(tmp_path, intermediate_size=96)
    with pytest.raises(OntogenyError, match="step1 is not a whole checkpoint"):
        open_series(str(tmp_path)).checkpoints[0].load()


def test_several_files_in_one_folder_are_not_chosen_from(tmp_path: Path) -> None:
    save_config(save_pt(tmp_path / "step1" / "model.pt", 1).parent, tiny("gpt_neox"))
    save_pt(tmp_path / "step1" / "ema.pt", 2)
    with pytest.raises(OntogenyError, match=r"step1 is not a whole .*found several state dicts \(ema\.pt, model\.pt\)"):
        open_series(str(tmp_path)).checkpoints[0].load()


@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded"])
def test_what_a_trainer_keeps_beside_the_weights_is_never_read(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "checkpoint-500"
    tiny("gpt_neox", 7).save_pretrained(folder, max_shard_size="10KB" if form == "sharded" else "1GB")
    if form == "bin":
        to_bin(folder)
    for name in BESIDE_WEIGHTS:
        (folder / name).write_bytes(b"no such thing")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "global_step500").mkdir()
    (folder / "global_step500" / "mp_rank_00_model_states.pt").write_bytes(b"no such thing")
    for source in (tmp_path, folder):
        (found,) = open_series(str(source)).checkpoints
        assert (found.name, found.step) == ("checkpoint-500", 500) and is_of_seed(found, 7)


def test_files_beside_the_weights_are_no_checkpoints(tmp_path: Path) -> None:
    save_config(tmp_path, tiny("gpt_neox"))
    save_pt(tmp_path / "model_step3.pt", 3)
    for name in (*BESIDE_WEIGHTS, "optimizer_step3.pt", "step3_optim.pt", "lr_scheduler-step3.pt", "step3-rng.pth"):
        (tmp_path / name).write_bytes(b"never read")
    series = open_series(str(tmp_path))
    assert [(one.name, one.step) for one in series.checkpoints] == [("model_step3", 3)] and series.notes == ()


def test_a_final_model_beside_the_files_is_left_out_with_a_note(tmp_path: Path) -> None:
    save_pt(save_tiny(tmp_path) / "step3.pt", 3)
    series = open_series(str(tmp_path))
    assert [one.step for one in series.checkpoints] == [3]
    assert series.notes == ("left out, as their names state no step: model.safetensors",)


def test_files_and_folders_are_one_series(tmp_path: Path) -> None:
    save_tiny(tmp_path / "step1", seed=1)
    save_pt(save_config(tmp_path, tiny("gpt_neox")) / "step2.pt", 2)
    assert steps(tmp_path) == [("step1", 1), ("step2", 2)]


@pytest.mark.parametrize(
    "names",
    [("step5.pt", "step5.ckpt"), ("step5.pt", "step05.pt"), ("epoch=0-step=5.ckpt", "epoch=0-step=5-v1.ckpt")],
)
def test_two_files_of_one_step_are_named(tmp_path: Path, names: tuple[str, str]) -> None:
    save_config(tmp_path, tiny("gpt_neox"))
    for name in names:
        save_pt(tmp_path / name, 1)
    with pytest.raises(OntogenyError) as caught:
        open_series(str(tmp_path))
    assert all(name in str(caught.value) for name in names) and "both state step 5: expected one" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "step"),
    [("run/step500.ckpt", 500), ("run/last.ckpt", UNKNOWN_STEP), ("run/step3/model.pt", 3), ("run/step4.pth", 4)],
)
def test_one_file_is_a_series_of_one(tmp_path: Path, file: str, step: int) -> None:
    save_word_tokenizer(save_config(tmp_path / "run", tiny("gpt_neox")))
    path = save_pt(tmp_path / file, 9)
    series = open_series(str(path))
    assert [(one.name, one.step) for one in series.checkpoints] == [(path.stem, step)]
    assert (series.name, series.source) == (path.stem, str(path))
    assert is_of_seed(series.checkpoints[0], 9)
    assert series.tokenizer() is not None


def test_files_without_a_config_say_how_to_write_one(tmp_path: Path) -> None:
    for source in (tmp_path, save_pt(tmp_path / "step5.pt", 5)):
        with pytest.raises(OntogenyError, match=r"step5\.pt has no config\.json beside it.*save_pretrained\('.*'\)"):
            open_series(str(source))


def test_loose_files_elsewhere_are_passed_over(tmp_path: Path) -> None:
    save_tiny(tmp_path / "step1")
    save_pt(tmp_path / "eval" / "probe.pt", 1)
    assert steps(tmp_path) == [("step1", 1)]


def test_files_that_changed_are_not_passed_off_as_measured(tmp_path: Path) -> None:
    save_config(tmp_path / "run", tiny("gpt_neox"))
    save_pt(tmp_path / "run" / "step5.pt", 5)
    ontogeny.scan(str(tmp_path / "run"), tmp_path / "scan", **SMALL)
    save_pt(tmp_path / "run" / "step5.pt", 6)
    with pytest.raises(OntogenyError, match="files of step5 have changed since it was measured"):
        ontogeny.scan(str(tmp_path / "run"), tmp_path / "scan", **SMALL)


def test_a_file_that_states_another_step_fails_alone(tmp_path: Path) -> None:
    save_config(tmp_path / "run", tiny("gpt_neox"))
    for step in (5, 6):
        save_lightning(tmp_path / "run" / f"epoch=0-step={step}.ckpt", tiny("gpt_neox"), 50 if step == 6 else step)
    scan = ontogeny.scan(str(tmp_path / "run"), **SMALL)
    assert scan.dataset.step.values.tolist() == [5]
    assert "is step 6 by its name, and 50 by its `global_step`" in scan.failures["epoch=0-step=6"]


@pytest.mark.parametrize(
    ("name", "step"),
    [("epoch=1-step=500", 500), ("epoch=1-step=500-v1", 500), ("step=7-val_loss=2.31", 7), ("run12-step5", 5)],
)
def test_a_folders_step_is_the_one_that_it_names(tmp_path: Path, name: str, step: int) -> None:
    save_tiny(tmp_path / name)
    assert steps(tmp_path) == [(name, step)]
