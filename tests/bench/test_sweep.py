"""The scan's rival: the script that one would write finds the same numbers, and the page holds what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ontogeny.errors import OntogenyError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def sweep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        spec = importlib.util.spec_from_file_location("sweep", BENCHMARKS / "sweep.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "sweep", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def swept(sweep, tmp_path_factory):
    """A small case, swept by all contenders in this process."""
    place = tmp_path_factory.mktemp("sweep")
    case = sweep.Case("tiny", 2, 32, 4, 300, checkpoints=2, sequences=3, length=260, batch=2)
    case.save(place / "series")
    runs = {name: sweep.run(name, case, place / "series", place / str(i)) for i, name in enumerate(sweep.CONTENDERS)}
    return place, runs


def test_all_find_the_same_numbers(sweep, swept):
    place, runs = swept
    for number in (1, 2):
        sweep.refuse_if_different(place / "0", place / str(number))
    with np.load(place / "1" / "step1.npz") as found:
        assert found["head_class"].shape == (2, 4) and found["top_activation"].shape == (3, 3, 3)
    for name, run in runs.items():
        busy = {phase for phase, seconds in run.phases.items() if seconds > 0}
        assert busy == set(sweep.PHASES) - (set() if name == sweep.OURS else {"project"})
        assert sum(run.phases.values()) <= run.seconds
        assert 0 < run.before_mib <= run.peak_mib


@pytest.mark.parametrize("name", ["sink_score", "support_90", "waiver_rate", "top_position", "massive_ratio"])
def test_nothing_is_timed_while_a_number_is_wrong(sweep, swept, tmp_path, name):
    place, _ = swept
    for file in (place / "1").iterdir():
        with np.load(file) as found:
            spoilt = {**found, name: found[name] + 1e-3 * max(1, np.abs(found[name]).max())}
        np.savez(tmp_path / file.name, **spoilt)
    with pytest.raises(OntogenyError, match=f"`{name}` is off by"):
        sweep.refuse_if_different(place / "0", tmp_path)
    for file in tmp_path.iterdir():
        spoilt.pop(name, None)
        np.savez(file, **spoilt)
    with pytest.raises(OntogenyError, match=f"only one has .'{name}'"):
        sweep.refuse_if_different(place / "0", tmp_path)


def test_the_page_shows_every_measured_time(sweep):
    page = sweep.PAGE.read_text()
    assert list(sweep.RESULTS.glob("*.json"))
    assert sweep.tables().strip() in page
    for path in sweep.RESULTS.glob("*.json"):
        for case in json.loads(path.read_text())["timed"]:
            for name, run in case["runs"].items():
                assert f"| {name} | {run['seconds']:.1f} |" in page
