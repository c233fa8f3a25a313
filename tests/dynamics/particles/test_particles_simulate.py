"""The public function: its dataset, its verdicts, its starts, and every refusal."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny.dynamics.particles.memory import free_memory
from ontogeny.errors import OntogenyError
from tests.dynamics.particles.reference import two_clusters

SQUARE = np.eye(2)[None].repeat(3, axis=0)


@pytest.fixture(scope="module")
def found():
    return ontogeny.simulate(10, 3, [1.0, 8.0], samples=2, keep_states=True)


def test_the_dataset_is_that_of_the_documentation(found, tmp_path):
    dims = {
        "state": ("time", "particle", "axis"),
        "energy": ("time",),
        "cluster_count": ("time", "threshold"),
        "clustered": ("time",),
        "merger_time": ("threshold", "merger"),
        "plateau_start": ("threshold", "plateau"),
        "plateau_end": ("threshold", "plateau"),
        "plateau_count": ("threshold", "plateau"),
        "verdict": (),
        "end_time": (),
        "steps": (),
    }
    assert {name: variable.dims for name, variable in found.data_vars.items()} == {
        name: ("beta", "sample", *rest) for name, rest in dims.items()
    }
    sizes = {"beta": 2, "sample": 2, "time": 121, "threshold": 3, "merger": 9, "plateau": 9, "particle": 10, "axis": 3}
    assert dict(found.sizes) == sizes
    assert found["time"].values[0] == 0 and found["time"].values[-1] == 30
    assert found.attrs["kind"] == "sa" and found.attrs["start"] == "uniform" and found.attrs["heads"] == 1
    assert "geshkovski2023" in ontogeny.citations(found) and "geshkovski2024" in ontogeny.citations(found)
    found.to_zarr(tmp_path / "simulation.zarr", consolidated=False)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "simulation.zarr", consolidated=False).load(), found)


def test_what_is_recorded_is_what_the_states_are(found):
    x, beta = found["state"].values, found["beta"].values[:, None, None, None, None]
    cosines = x @ x.swapaxes(-1, -2)
    energy = np.exp(beta * (cosines - 1)).mean((-1, -2)) / (2 * beta[..., 0, 0])
    np.testing.assert_allclose(found["energy"], energy, rtol=1e-12)
    i, j = np.triu_indices(10, 1)
    np.testing.assert_array_equal(found["clustered"], (cosines[..., i, j] > 0.999).mean(-1))
    assert np.abs(np.linalg.norm(x, axis=-1) - 1).max() < 1e-12
    assert (x[0] == x[0])[:, 0].all() and np.array_equal(x[0, :, 0], x[1, :, 0]), "starts are the same for every beta"


def test_the_same_seed_gives_the_same_and_samples_do_not_depend_on_their_number(found):
    settings = {"samples": 2, "horizon": 3.0, "keep_states": True}
    xr.testing.assert_identical(*(ontogeny.simulate(10, 3, [1.0, 8.0], **settings) for _ in range(2)))
    more = ontogeny.simulate(10, 3, 1.0, samples=4, times=[0.0], keep_states=True)
    np.testing.assert_array_equal(more["state"].values[0, :2, 0], found["state"].values[0, :, 0])
    other = ontogeny.simulate(10, 3, 1.0, samples=1, times=[0.0], keep_states=True, seed=1)
    assert np.abs(other["state"].values[0, 0] - found["state"].values[0, 0, :1]).max() > 0.1


def test_collapse_ends_a_trajectory_and_its_later_values_are_those_of_one_cluster():
    one = ontogeny.simulate(8, 3, 0.5, horizon=1e4)
    assert one["verdict"].item() == "collapsed" and one["end_time"].item() < 200
    late = one.sel(time=slice(one["end_time"].item(), None))
    assert late.sizes["time"] > 10 and (late["cluster_count"] == 1).all() and (late["clustered"] == 1).all()
    np.testing.assert_allclose(late["energy"], 1.0, rtol=1e-12)


def test_a_budget_that_does_not_suffice_ends_in_a_verdict_and_a_partial_result():
    short = ontogeny.simulate(8, 3, [1.0, 20.0], horizon=1e12, step_budget=40)
    assert (short["verdict"] == "step budget").all() and (short["steps"] == 40).all()
    for beta in range(2):
        one = short.isel(beta=beta, sample=0)
        known = one["time"] <= one["end_time"]
        assert 3 < known.sum() < 121
        for name in ("energy", "clustered", "cluster_count"):
            assert one[name].where(known, drop=True).notnull().all() and one[name].where(~known).isnull().all()
    noisy = ontogeny.simulate(4, 2, 1.0, noise=0.1, horizon=1e6, step_budget=7)
    assert noisy["verdict"].item() == "step budget" and noisy["steps"].item() == 7 and noisy["end_time"].item() > 0


def test_a_causal_run_on_a_long_plateau_keeps_what_came_before_its_budget_was_spent():
    """Two clusters that merge after e^80 or so; what is known is that of a run whose horizon lies before."""
    start = two_clusters(-0.5, 4, spread=0.05)
    settings = {"beta": 60.0, "start": start, "causal": True, "times": [0.1, 1.0, 5.0, 20.0, 1e5, 1e6]}
    short = ontogeny.simulate(**settings, horizon=1e6, step_budget=300)
    assert short["verdict"].item() == "step budget" and short["steps"].item() == 300
    assert 20 < short["end_time"].item() < 1e5
    early = ontogeny.simulate(**{**settings, "times": settings["times"][:4]}, horizon=20.0)
    assert early["verdict"].item() == "horizon"
    for name in ("energy", "cluster_count", "clustered"):
        known = short[name].isel(time=slice(4))
        np.testing.assert_allclose(known, early[name], rtol=1e-6)
        assert known.notnull().all() and short[name].isel(time=slice(4, None)).isnull().all()
    assert short["plateau_count"].sel(threshold=0.99).max() == 2 and short["plateau_end"].isnull().any()


def test_a_horizon_that_comes_first_is_the_verdict():
    early = ontogeny.simulate(start=two_clusters(0.0, 2), beta=9.0, horizon=5.0)
    assert early["verdict"].item() == "horizon" and early["end_time"].item() == 5.0
    assert np.isnan(early["plateau_end"].values[0, 0, 0, 0]) and early["plateau_start"].values[0, 0, 0, 0] == 0


def test_states_that_are_all_equal_are_one_cluster():
    same = ontogeny.simulate(start=np.tile([0.6, 0.8], (1, 5, 1)), beta=[0.1, 50.0])
    assert (same["verdict"] == "collapsed").all() and (same["cluster_count"] == 1).all()
    np.testing.assert_allclose(same["energy"].values[:, 0, -1], [5.0, 0.01])


def test_caps_are_caps():
    found = ontogeny.simulate(21, 3, 1.0, samples=3, start="caps:4", cap_radius=0.2, times=[0.0], keep_states=True)
    assert found.attrs["start"] == "caps:4 of radius 0.2"
    for x in found["state"].values[0, :, 0]:
        angle = np.arccos(np.clip(x @ x.T, -1, 1))
        cap = np.arange(21) * 4 // 21
        assert angle[cap[:, None] == cap].max() <= 0.4 + 1e-9 and angle[cap[:, None] != cap].min() > 0.5
        assert np.bincount(cap).tolist() == [6, 5, 5, 5]


def test_caps_that_overlap_are_refused_and_the_radius_named_instead_is_not():
    with pytest.raises(OntogenyError, match="less than two radii") as refused:
        ontogeny.simulate(16, 2, 1.0, samples=2, start="caps:8", cap_radius=0.3)
    apart, radius = re.findall(r"lie (\S+) apart .* radius of at most (\S+),", str(refused.value))[0]
    assert float(radius) == pytest.approx(float(apart) / 2, rel=0.1) and float(radius) <= float(apart) / 2
    settings = {"samples": 2, "start": "caps:8", "times": [0.0], "horizon": 0.1, "keep_states": True}
    x = ontogeny.simulate(16, 2, 1.0, cap_radius=float(radius), **settings)["state"].values[0, :, 0]
    angle = np.arccos(np.clip(x @ x.swapaxes(-1, -2), -1, 1))
    same = np.equal.outer(np.arange(16) // 2, np.arange(16) // 2)
    assert angle[:, same].max() < 2 * float(radius) and angle[:, ~same].min() > 0


def test_what_would_not_fit_the_memory_is_refused_before_it_begins(monkeypatch):
    """Also where nothing but the record is too large, of which the free memory is then the bound."""
    monkeypatch.setattr("ontogeny.dynamics.particles.memory.free_memory", lambda: 16 << 30)
    begun = time.monotonic()
    with pytest.raises(
        OntogenyError, match=r"free, 16\.0 GiB, got one that takes at least 596\.\d GiB for pairs of 100,000 particles"
    ):
        ontogeny.simulate(100_000, 2, 1.0)
    said = "for the record of 2 betas x 1,000,000,000 samples at 121 times: take fewer betas, samples or times"
    with pytest.raises(OntogenyError, match=said):
        ontogeny.simulate(8, 2, [1.0, 2.0], samples=10**9)
    assert time.monotonic() - begun < 5
    monkeypatch.setattr("ontogeny.dynamics.particles.memory.free_memory", lambda: 100_000)
    assert ontogeny.simulate(8, 2, 1.0, horizon=0.1, times=[0.1]).sizes["beta"] == 1
    with pytest.raises(OntogenyError, match="or keep no states"):
        ontogeny.simulate(8, 2, 1.0, samples=5, horizon=0.1, keep_states=True)
    monkeypatch.setattr("ontogeny.dynamics.particles.memory.free_memory", lambda: None)
    assert ontogeny.simulate(8, 2, 1.0, samples=5, horizon=0.1, keep_states=True).sizes["sample"] == 5


def test_at_the_highest_beta_the_energy_is_exact_to_nine_digits():
    start = ontogeny.simulate(7, 5, 1e6, times=[0.0], horizon=1e-3)
    assert 2e6 * start["energy"].item() == pytest.approx(1 / 7, rel=1e-9)


def test_the_free_memory_is_that_of_the_system():
    assert 1 << 20 < free_memory() < 1 << 50


def test_one_sample_needs_no_axis_of_samples_and_kinds_may_be_in_capitals():
    x = two_clusters(0.2, 3, spread=0.1)
    settings = {"beta": 2.0, "horizon": 3.0}
    for kind in ("sa", "usa"):
        expected = ontogeny.simulate(start=x, kind=kind, **settings)
        xr.testing.assert_identical(ontogeny.simulate(start=x[0], kind=kind.upper(), **settings), expected)


def test_progress_is_told_up_to_the_whole():
    told = []
    ontogeny.simulate(6, 2, [1.0, 2.0], samples=2, on_progress=lambda done, total: told.append((done, total)))
    done = [one for one, _ in told]
    assert done == sorted(done) and told[-1] == (4 * 121, 4 * 121) and len(told) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "expected every beta to be positive and finite, got 0"),
        ({"beta": [1.0, -2.0]}, "expected every beta to be positive and finite, got 1, -2"),
        ({"beta": np.nan}, "expected every beta to be positive"),
        ({"beta": []}, "expected beta to be one or more numbers"),
        ({"beta": "warm"}, "expected beta to be real numbers, got 'warm'"),
        ({"start": [[[1.0, 0.0], [1.0]]]}, "expected start to be real numbers"),
        ({"particles": 1}, "expected particles to be a whole number of at least 2, got 1"),
        ({"dimension": 1}, "expected dimension to be a whole number of at least 2, got 1"),
        ({"samples": 0}, "expected samples to be a whole number of at least 1, got 0"),
        ({"samples": 1.5}, "expected samples to be a whole number"),
        ({"start": SQUARE, "seed": 1.5}, "expected seed to be a whole number of at least 0, got 1.5"),
        ({"seed": -1}, "expected seed to be a whole number of at least 0, got -1"),
        ({"kind": "linear"}, "expected kind to be one of sa, usa, softmax, .*, got 'linear'"),
        ({"horizon": 0.0}, "expected a horizon that is positive and finite, got 0"),
        ({"horizon": np.inf}, "expected a horizon that is positive and finite, got inf"),
        ({"noise": -0.1}, "expected noise .* that is not negative"),
        ({"noise_step": 0.0}, "expected noise_step"),
        ({"tolerance": 1e-16}, "expected a tolerance between 1e-13 and 1e-2, got 1e-16"),
        ({"step_budget": 0}, "expected step_budget to be a whole number of at least 1, got 0"),
        ({"thresholds": (0.9, 1.0)}, "expected different thresholds between -1 and 1"),
        ({"thresholds": (0.9, 0.9)}, "expected different thresholds"),
        ({"times": [0.0, 31.0]}, "expected ascending times from 0 to the horizon, 30, got 0, 31: change"),
        ({"times": [1.0, 1.0]}, "expected ascending times"),
        ({"start": "grid"}, "expected start 'uniform', 'caps:K' with 1 <= K <= 32, or an array, got 'grid'"),
        ({"start": "caps:33"}, "expected start 'uniform', 'caps:K' with 1 <= K <= 32"),
        ({"start": "caps:2", "cap_radius": 2.0}, "expected cap_radius"),
        ({"start": SQUARE * 1.001}, r"norm 1 to within 1e-06, got norm 1.001 at sample 0, particle 0: divide"),
        ({"start": SQUARE * 0}, "got norm 0 at sample 0, particle 0"),
        ({"start": SQUARE * np.nan}, "got norm nan at sample 0, particle 0"),
        ({"start": SQUARE[0, 0]}, r"expected start of shape \(samples, particles >= 2, dimension >= 2\), or .* \(2,\)"),
        ({"start": SQUARE[:, :1]}, r"expected start of shape .* got \(3, 1, 2\)"),
        ({"start": SQUARE * (1 + 0j)}, "expected start to be real numbers"),
        ({"Q": np.eye(2) * 1j}, "expected Q to be real numbers"),
        ({"start": "caps:32"}, r"do not overlap, got caps:32 of radius 0.1: the best .* lie 0.0\d+ apart \(radians\)"),
        ({"beta": [1.0, 1e300]}, r"expected every beta to be at most 1,000,000, got 1e\+300"),
        ({"horizon": "5"}, "expected horizon to be a number, got '5'"),
        ({"horizon": 5j}, "expected horizon to be a number, got 5j"),
        ({"noise": None}, "expected noise to be a number, got None"),
        ({"noise_step": "1"}, "expected noise_step to be a number"),
        ({"tolerance": "1e-8"}, "expected tolerance to be a number"),
        ({"start": "caps:2", "cap_radius": "1"}, "expected cap_radius to be a number"),
        ({"start": SQUARE, "samples": 2}, "start has samples 3, but samples=2 was asked for: leave samples out"),
        ({"Q": np.eye(3)}, r"expected Q of shape \(2, 2\) or \(heads, 2, 2\), got \(3, 3\)"),
        ({"V": np.full((2, 2), np.inf)}, "expected V with finite entries"),
        ({"Q": SQUARE, "V": SQUARE[:2]}, "expected as many matrices for every name, .*, got Q 3, V 2"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_sentence(arguments, message):
    with pytest.raises(OntogenyError, match=message):
        ontogeny.simulate(**arguments)
