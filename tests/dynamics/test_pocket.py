"""The trainer of `pocket`: deterministic, minding its manners, and the one that made the shipped weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers.utils import logging

from ontogeny.dynamics import backcopy, pocket
from ontogeny.errors import OntogenyError, UsageError

LAST = pocket.CHECKPOINT_STEPS[-1]


def shipped(step: int) -> Path:
    return pocket.SHIPPED / f"step{step}"


def weights(folder: Path) -> np.ndarray:
    """All weights of a checkpoint, float64, one after the other in the order of their names."""
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].astype(np.float64).ravel() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pocket.train(tmp_path_factory.mktemp("short"), 16)


def test_writes_the_checkpoints_up_to_the_last_step(short_run: list[Path]) -> None:
    assert [folder.name for folder in short_run] == ["step0", "step1", "step2", "step4", "step8", "step16"]
    for folder in short_run:
        assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_recreates_the_shipped_initial_weights(short_run: list[Path]) -> None:
    one_rounding_of_float16 = 2**-10
    np.testing.assert_allclose(weights(short_run[0]), weights(shipped(0)), rtol=one_rounding_of_float16, atol=1e-7)


def test_recreates_the_shipped_early_checkpoints(short_run: list[Path]) -> None:
    """The distance to the shipped weights is less than a tenth of the way that training has come.

    On the machine that trained the series it is zero. Elsewhere the key biases, whose gradient is zero but for
    rounding, move by Adam's full step in directions of their own: 192 of 154 thousand weights, hence
    2 sqrt(192 / 154e3) = 7 % of the way.
    """
    start = weights(shipped(0))
    for folder in short_run[1:]:
        expected = weights(pocket.SHIPPED / folder.name)
        way = np.linalg.norm(expected - start)
        assert way > 0
        assert np.linalg.norm(weights(folder) - expected) < 0.1 * way


def test_two_runs_are_identical_whatever_the_callers_state(short_run: list[Path], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(99)
        again = pocket.train(tmp_path, 16)
    finally:
        torch.set_num_threads(threads)
    for first, second in zip(short_run, again, strict=True):
        for name in ("model.safetensors", "config.json"):
            assert (first / name).read_bytes() == (second / name).read_bytes()


def test_another_seed_gives_another_model(short_run: list[Path], tmp_path: Path) -> None:
    (other,) = pocket.train(tmp_path, 0, pocket.Recipe(seed=1))
    assert not np.array_equal(weights(other), weights(short_run[0]))


@pytest.mark.parametrize("learning_rate", [3e-3, 1e38], ids=["finished", "failed"])
def test_leaves_the_callers_state_as_it_was(tmp_path: Path, learning_rate: float) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    try:
        try:
            pocket.train(tmp_path, 2, pocket.Recipe(learning_rate=learning_rate, warmup_steps=1))
        except OntogenyError:
            assert learning_rate > 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert logging.is_progress_bar_enabled()


def test_reports_each_checkpoint_with_a_falling_loss_on_one_thread(tmp_path: Path) -> None:
    seen: list[tuple[int, float, int]] = []
    pocket.train(tmp_path, 16, report=lambda step, loss: seen.append((step, loss, torch.get_num_threads())))
    steps, losses, threads = zip(*seen, strict=True)
    assert steps == (0, 1, 2, 4, 8, 16)
    assert losses[0] == pytest.approx(np.log(backcopy.VOCABULARY), abs=0.1)
    assert losses[-1] < losses[0] - 0.1
    assert set(threads) == {1}


def test_the_recipe_is_the_one_of_the_shipped_weights() -> None:
    """A short run is blind to what acts late, such as decay and the schedule's end: new values need new weights."""
    assert asdict(pocket.SHIPPED_RECIPE) == {
        "layers": 3,
        "width": 64,
        "heads": 2,
        "ffn": 256,
        "steps": 10000,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "warmup_steps": 100,
        "final_share": 0.1,
        "betas": (0.9, 0.99),
        "weight_decay": 0.15,
        "clip_norm": 1.0,
        "seed": 0,
    }


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    recipe = pocket.Recipe()
    assert recipe.rate(0) == pytest.approx(3e-5)
    assert recipe.rate(99) == pytest.approx(3e-3, rel=1e-3)
    assert recipe.rate(5000) == pytest.approx(0.55 * 3e-3)
    assert recipe.rate(recipe.steps) == pytest.approx(3e-4)


def test_a_diverging_run_says_at_which_step(tmp_path: Path) -> None:
    with pytest.raises(OntogenyError, match=r"finite loss.*step 1"):
        pocket.train(tmp_path, 4, pocket.Recipe(learning_rate=1e38, warmup_steps=1))


@pytest.mark.parametrize("last_step", [-1, LAST + 1])
def test_steps_outside_the_recipe_are_refused(tmp_path: Path, last_step: int) -> None:
    with pytest.raises(UsageError, match="got"):
        pocket.train(tmp_path, last_step)


def test_an_existing_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "step2").mkdir()
    with pytest.raises(OntogenyError, match="step2"):
        pocket.train(tmp_path, 4)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step2"]


def test_trains_and_says_so_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pocket.main(["--out", str(tmp_path / "new"), "--steps", "1"]) == 0
    assert (tmp_path / "new" / "step1" / "model.safetensors").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step     1" in captured.err


def test_an_unwritable_place_fails_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert pocket.main(["--out", str(tmp_path / "file"), "--steps", "0"]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_wrong_request_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pocket.main(["--out", str(tmp_path), "--steps", str(LAST + 1)]) == 2
    assert str(LAST) in capsys.readouterr().err
