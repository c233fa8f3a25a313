"""The scan's rival: the script that one would write finds the same numbers, and the page holds what was measured."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from ontogeny import measure
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.trace import Pass, ResidualTrace, Trace
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def sweep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        yield benchmark_script("sweep")


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


NAMES = (
    "sink_score act_sink_rate first_token_share support_90 value_norm update_norm waiver_rate secondary_sinks "
    "secondary_start top_position top_token shared_dimension shared_dimension_share massive_ratio "
    "massive_ratio_of_means massive_lifetime saturation_rate"
)


@pytest.mark.parametrize("name", NAMES.split())
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


def test_the_script_finds_runs_that_random_weights_do_not_have(sweep):
    """Alike tokens and massive activations that come and go, dimensions that sequences share, ties among all these."""
    by_hand = importlib.import_module("sweep_by_hand")
    draw = np.random.default_rng(0)
    sequences, depths, tokens = 12, 7, 20
    ids = draw.integers(0, 50, (sequences, tokens))
    cosine = draw.choice([-0.95, 0.3, 0.95], (sequences, depths, tokens), p=[0.1, 0.8, 0.1])
    top = np.sort(draw.choice([3.0, 90.0, 150.0, 400.0, 7e4], (sequences, depths, 3)))[..., ::-1].copy()
    median = draw.choice([0.02, 0.1, 0.5], (sequences, depths))
    position, dimension = draw.integers(0, tokens, top.shape), draw.integers(0, 6, top.shape)
    traces = [
        ResidualTrace(
            *(torch.from_numpy(one[:, depth]) for one in (top, position, dimension, median, cosine)),
            saturated=torch.zeros(sequences, dtype=torch.bool),
        )
        for depth in range(depths)
    ]
    trace = Trace([Pass(tokens, (), tuple(traces), "not asked for", ids=torch.from_numpy(ids))])
    expected = measure(trace, probes=["secondary", "massive"])
    found = {"top_activation": top, "top_position": position, "top_dimension": dimension, "median_activation": median}
    found = {**found, **by_hand._secondary(cosine), **by_hand._massive(found, ids)}
    assert set(found) == set(expected.data_vars)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], err_msg=name)
    for name in ("secondary_lifetime", "massive_lifetime", "massive_onset"):
        assert len(np.unique(found[name])) > 2


def test_the_page_shows_every_measured_time(sweep):
    page = sweep.PAGE.read_text()
    assert list(sweep.RESULTS.glob("*.json"))
    assert sweep.tables().strip() in page
    for path in sweep.RESULTS.glob("*.json"):
        for case in json.loads(path.read_text())["timed"]:
            for name, run in case["runs"].items():
                assert f"| {name} | {run['seconds']:.1f} |" in page
