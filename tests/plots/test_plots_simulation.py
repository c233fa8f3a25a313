"""Figures of simulations: lines, colours and paths are the dataset's, on the axis of time that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny import plots
from ontogeny.errors import OntogenyError, UsageError


def simulated(dimension: int = 2, **options: object) -> xr.Dataset:
    asked = {"kind": "usa", "samples": 2, "horizon": 100.0, "tolerance": 1e-5, "keep_states": True, "beta": (1, 3)}
    return ontogeny.simulate(5, dimension, **(asked | options))


@pytest.fixture(scope="module")
def circle() -> xr.Dataset:
    return simulated()


def test_energy_and_count_of_each_beta_are_drawn_over_the_time(circle: xr.Dataset) -> None:
    fig = plots.simulation(circle, sample=1, threshold=0.99)
    one = circle.sel(sample=1)
    energies, counts = fig.data[:2], fig.data[2:4]
    for beta, energy, count in zip((1.0, 3.0), energies, counts, strict=True):
        assert energy.name == count.name == f"β = {beta:g}"
        np.testing.assert_allclose(energy.x[1:], circle["time"].values[1:])
        assert np.isnan(energy.x[0])  # time 0 has no place on a log axis
        np.testing.assert_allclose(energy.y, 2 * beta * one["energy"].sel(beta=beta))
        np.testing.assert_array_equal(count.y, one["cluster_count"].sel(beta=beta, threshold=0.99))
    assert fig.layout.xaxis.type == "log" and "USA, 5 particles, 2 dimensions" in fig.layout.title.subtitle.text
    assert max(max(energy.y) for energy in energies) == pytest.approx(1)


def test_particles_on_the_circle_are_their_angles_without_jumps(circle: xr.Dataset) -> None:
    """All are turned, so that the first crosses the cut of the angle."""
    cut = circle["state"].sel(beta=3, sample=0, particle=0).mean("time").values
    turned = np.pi - np.arctan2(cut[1], cut[0])
    turn = np.array([[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]])
    circle = circle.assign(state=(circle["state"].dims, circle["state"].values @ turn))
    fig = plots.simulation(circle, betas=[3])
    paths = fig.data[2:]
    assert len(paths) == 5
    states = circle["state"].sel(beta=3, sample=0).transpose("particle", "time", "axis").values
    assert np.ptp(np.sign(states[0, :, 1])) == 2
    for trace, state in zip(paths, states, strict=True):
        angle = np.pi * np.asarray(trace.y)
        np.testing.assert_allclose(np.stack([np.cos(angle), np.sin(angle)], -1), state, atol=1e-9)
        assert np.abs(np.diff(trace.y)).max() < 1


def test_stretched_time_is_that_of_each_beta(circle: xr.Dataset) -> None:
    fig = plots.simulation(circle, time="stretched")
    for beta, trace in zip((1.0, 3.0), fig.data[:2], strict=True):
        np.testing.assert_allclose(trace.x, np.log1p(circle["time"].values) / beta)
    assert fig.layout.xaxis3.title.text == "stretched time, log(1 + t) / β" and fig.layout.xaxis.type != "log"


def test_stretched_time_ends_behind_the_last_merger_that_is_seen(circle: xr.Dataset) -> None:
    fig = plots.simulation(circle, sample=0, time="stretched", threshold=0.999)
    last = max(float(np.asarray(trace.x)[np.asarray(trace.y) > 1].max()) for trace in fig.data[2:4])
    assert fig.layout.xaxis.range == (0, pytest.approx(1.1 * last))
    lonely = plots.simulation(circle.assign(cluster_count=circle["cluster_count"] * 0 + 1), time="stretched")
    assert lonely.layout.xaxis.range[1] == pytest.approx(np.log1p(100))


def test_particles_on_the_sphere_are_paths_on_it() -> None:
    sphere = simulated(3)
    fig = plots.simulation(sphere)
    paths = [trace for trace in fig.data if trace.type == "scatter3d" and trace.mode == "lines"]
    assert len(paths) == 5
    for trace, state in zip(paths, sphere["state"].sel(beta=3, sample=0).values.swapaxes(0, 1), strict=True):
        path = np.stack([trace.x, trace.y, trace.z], -1)
        np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 1, atol=1e-6)
        np.testing.assert_allclose(path[[0, -1]], state[[0, -1]], atol=1e-6)


def test_more_dimensions_or_no_states_have_no_particles(circle: xr.Dataset) -> None:
    for dataset in (simulated(4), circle.drop_vars("state")):
        assert len(plots.simulation(dataset).data) == 4


def test_lines_end_where_the_step_budget_did() -> None:
    dataset = simulated(step_budget=12, beta=(3,))
    assert set(dataset["verdict"].values.ravel()) == {"step budget"}
    fig = plots.simulation(dataset)
    known = np.isfinite(np.asarray(fig.data[0].y, dtype=float))
    assert known[0] and not known[-1] and not np.isfinite(fig.data[-1].y[-1])
    assert np.isnan(plots.phase_diagram(dataset).data[0].z[0, -1])


def test_at_most_six_betas_are_drawn_unless_they_are_named() -> None:
    dataset = simulated(beta=np.arange(1, 10), samples=1, keep_states=False)
    names = {trace.name for trace in plots.simulation(dataset).data}
    assert len(names) == 6 and {"β = 1", "β = 9"} <= names
    assert {trace.name for trace in plots.simulation(dataset, betas=[7, 2]).data} == {"β = 2", "β = 7"}


def test_the_phase_diagram_is_the_mean_over_samples(circle: xr.Dataset) -> None:
    (cells,) = plots.phase_diagram(circle).data
    expected = circle["clustered"].mean("sample").transpose("beta", "time").values[:, 1:]
    np.testing.assert_allclose(cells.z, expected, atol=1e-7)
    assert expected.max() == 1 and (cells.zmin, cells.zmax) == (0, 1)
    times = circle["time"].values[1:]
    assert len(cells.x) == times.size + 1 and (np.asarray(cells.x[:-1]) < times).all()
    assert (times < np.asarray(cells.x[1:])).all() and list(cells.y) == [0, 2, 4]


def test_lifetimes_show_how_far_they_are_from_the_exact_line() -> None:
    beta = np.array([4.0, 2.0, 8.0])
    exact = np.exp(beta)
    fig = plots.lifetimes(beta, 1.01 * exact, exact, {"leading exponential": 2 * exact})
    drawn = {trace.name: trace for trace in fig.data}
    np.testing.assert_allclose(drawn["exact integral"].y, np.sort(exact))
    np.testing.assert_allclose(drawn["leading exponential"].y, 2 * np.sort(exact))
    np.testing.assert_allclose(drawn["simulated"].y, 1.01 * exact)
    np.testing.assert_allclose(drawn["simulated over exact"].y, [1, 1, 1])
    assert fig.layout.yaxis.type == "log" and drawn["leading exponential"].line.dash == "dash"
    with pytest.raises(UsageError, match=r"one shape \(n,\), got beta \(3,\), simulated \(2,\)"):
        plots.lifetimes(beta, exact[:2], exact)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": "linear"}, "expected the time log or stretched, got 'linear'"),
        ({"sample": 2}, "expected a sample of 0 to 1, got 2"),
        ({"betas": [2.5]}, "beta 2.5 was not measured: expected one of 1, 3"),
        ({"betas": []}, "expected at least one beta"),
        ({"threshold": 0.5}, "threshold 0.5 was not measured"),
    ],
)
def test_what_is_not_there_is_said(circle: xr.Dataset, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plots.simulation(circle, **options)


def test_another_dataset_is_refused() -> None:
    for draw in (plots.simulation, plots.phase_diagram):
        with pytest.raises(OntogenyError, match=r"`ontogeny\.simulate` makes one"):
            draw(xr.Dataset({"loss": ("checkpoint", [1.0])}))


def test_the_start_alone_is_refused() -> None:
    start = simulated(times=[0.0], horizon=0.1)
    for draw in (plots.simulation, plots.phase_diagram):
        with pytest.raises(OntogenyError, match="expected values at times after 0"):
            draw(start)
