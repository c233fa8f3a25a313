"""Theory against simulation: the page holds what was measured, and the benchmark measures what it says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def benchmark_():
    return benchmark_script("metastability")


@pytest.fixture(scope="module")
def found(benchmark_):
    (path,) = benchmark_.RESULTS.glob("*.json")
    return json.loads(path.read_text())


def test_the_page_holds_the_results_and_its_figures(benchmark_, found):
    page = benchmark_.PAGE.read_text()
    assert benchmark_.tables(found).strip() in page
    shown = re.findall(r"!\[[^\]]+\]\(figures/([^)]+)\)", page)
    assert shown and sorted(shown) == sorted(figure.name for figure in benchmark_.FIGURES.glob("*.svg"))


def test_lifetimes_are_within_two_per_cent_and_their_growth_tends_to_the_exponential(found):
    for kind in ("usa", "sa"):
        rows = found["lifetimes"][kind]
        assert [row["beta"] for row in rows] == list(range(2, 21))
        assert max(row["worst"] for row in rows) < 0.02
        assert all(row["simulated"] > row["bound"] for row in rows)
        early, late = found["slopes"][kind]
        assert early["slope"] < late["slope"] < 1.25
    assert found["phase"]["seconds"] < 60 and found["phase"]["trajectories"] == 90 * 64


def test_the_benchmark_simulates_what_the_results_hold(benchmark_, found, monkeypatch):
    monkeypatch.setattr(benchmark_, "BETAS", np.array([2.0, 9.0]))
    for kind in ("usa", "sa"):
        kept = {row["beta"]: row for row in found["lifetimes"][kind]}
        for row in benchmark_.lifetimes(kind):
            expected = kept[row["beta"]]
            assert row.pop("steps") == pytest.approx(expected.pop("steps"), rel=0.1)
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)
