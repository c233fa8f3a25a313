"""The series that the package carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ontogeny.dynamics import backcopy
from ontogeny.dynamics.sources import open_series, pocket
from ontogeny.errors import OntogenyError
from tests.checkpoint_folders import save_tiny


def test_it_is_a_folder_series_with_a_task_and_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (16, 0):
        save_tiny(tmp_path / f"step{step}")
    monkeypatch.setattr(pocket, "SHIPPED", tmp_path)
    series = open_series("pocket")
    assert (series.source, series.name, series.default_steps) == ("pocket", "pocket", "all")
    assert [checkpoint.step for checkpoint in series.checkpoints] == [0, 16]
    assert series.tokenizer() is None
    assert series.task is not None
    assert np.array_equal(series.task(3, 20), backcopy.sample(3, 20))
    series.checkpoints[1].load()


def test_an_installation_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "SHIPPED", tmp_path / "gone")
    with pytest.raises(OntogenyError, match=r"lacks the pocket series .*install ontogeny again"):
        open_series("pocket")


def test_the_shipped_series_runs_from_step_0_and_loads() -> None:
    series = open_series("pocket")
    assert 16 <= len(series.checkpoints) <= 22
    assert (series.checkpoints[0].step, series.checkpoints[0].tokens) == (0, 0)
    assert (series.checkpoints[-1].step, series.checkpoints[-1].tokens) == (10_000, 10_000 * 16 * 64)
    assert (series.arch.dtype, series.arch.batch_tokens, series.arch.seed) == ("float32", 1024, 0)
    assert series.checkpoints[-1].load().config.vocab_size == series.arch.vocab
