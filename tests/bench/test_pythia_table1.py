"""The benchmark of Pythia's curves: the bundled part, and the release from a stand-in for the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ontogeny.dynamics.published.release import RELEASE
from ontogeny.fitting import EmergenceCurve
from tests.benchmark_scripts import benchmark_script
from tests.hub_server import Repository, serve


@pytest.fixture(scope="module")
def table1() -> ModuleType:
    return benchmark_script("pythia_table1")


def test_the_bundled_curves_are_fitted_at_least_that_well(table1: ModuleType) -> None:
    found = table1.bundled()
    assert set(found) == {"12b", "14m", "160m", "1b"}
    assert all(found[size] >= least for size, least in table1.LEAST.items())
    assert all(r2 < 1 for r2 in found.values())


def run(table1: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["pythia_table1.py", "--full", *map(str, arguments)])
    table1.main()


def test_it_says_so_where_the_release_cannot_be_had(
    table1: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("ontogeny.dynamics.loading.retry.PAUSES", ())
    with serve({}) as hub:
        run(table1, monkeypatch, "--endpoint", hub.endpoint, "--cache", tmp_path)
    printed = capsys.readouterr().out
    assert "the whole release could not be had" in printed and "| 12b |" in printed


def test_the_release_is_compared_with_the_published_table(
    table1: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    true = EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=8e-5, tau0=250.0)
    steps = (0, 1, 16, 128, 512, 1000, 5000, 20_000, 60_000, 100_000, 143_000)
    held = {}
    for step in steps:
        values = np.ones((10, 4, 6))
        values[:, 0] = true(step)
        with np.printoptions(threshold=10**9, precision=8):
            held[f"pythia_14m/stats/exp2_pythia_14m_step{step}"] = str(values).encode()
    repository = Repository(branches={"main": held})
    with serve({RELEASE: repository}) as hub:
        run(table1, monkeypatch, "--endpoint", hub.endpoint, "--cache", tmp_path)
    assert "| 14m | 1.0000 | 6 | 0.9307 |" in capsys.readouterr().out
