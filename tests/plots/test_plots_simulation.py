"""Figures of simulations: lines, colours and paths are the dataset's, on the axis of time that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny import plots
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.plots.axes import log_axis
from ontogeny.plots.theme import MUTED


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


def turned_by(dataset: xr.Dataset, angle: float) -> xr.Dataset:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return dataset.assign(state=(dataset["state"].dims, dataset["state"].values @ turn))


@pytest.mark.parametrize("turn", [0.0, np.pi - 2, -2.0, 2.0])
def test_particles_on_the_circle_are_their_angles_and_a_cluster_is_one_band(circle: xr.Dataset, turn: float) -> None:
    """However they are turned; they start all around the circle, so that paths lead across any cut."""
    x = np.linspace(0, 2 * np.pi, 6)[:-1] + 0.3
    paths = np.linspace(x, x + np.array([9, 7, 4, -4, -6]), 40)  # up to a turn and a half, either way
    paths[-5:] = 2 + np.array([-1e-3, 0, 1e-3, 0, 1e-3])
    states = np.stack([np.cos(paths), np.sin(paths)], -1)
    one = circle.isel(beta=[1], sample=[0], time=slice(40))
    one = turned_by(one.assign(state=(one["state"].dims, states[None, None])), turn)
    lines = plots.simulation(one).data[2:]
    assert len(lines) == 5 and {line.line.color for line in lines} == {MUTED}
    angles = one["state"].values[0, 0]
    broken = 0
    for line, state in zip(lines, angles.swapaxes(0, 1), strict=True):
        angle, known = np.pi * np.asarray(line.y), np.isfinite(line.y)
        np.testing.assert_allclose(np.stack([np.cos(angle), np.sin(angle)], -1)[known], state, atol=1e-9)
        np.testing.assert_array_equal(np.asarray(line.x)[known], np.where(one["time"] > 0, one["time"], np.nan))
        assert np.nanmax(np.abs(np.diff(line.y))) <= 1 and np.abs(line.y[-1]) <= 1.001
        broken += (~known).sum()
    assert broken > 2 and np.ptp([line.y[-1] for line in lines]) < 1e-3


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
    assert len(paths) == 5 and {path.line.color for path in paths} == {MUTED}
    for trace, state in zip(paths, sphere["state"].sel(beta=3, sample=0).values.swapaxes(0, 1), strict=True):
        path = np.stack([trace.x, trace.y, trace.z], -1)
        np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 1, atol=1e-6)
        np.testing.assert_allclose(path[[0, -1]], state[[0, -1]], atol=1e-6)


def test_the_subtitle_says_which_matrices_are_given() -> None:
    def words(**options: object) -> str:
        return plots.simulation(simulated(horizon=1.0, samples=1, **options)).layout.title.subtitle.text

    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert "given" not in words() and "2 dimensions, V given, start" in words(V=turn)
    assert "2 dimensions, Q, K given, causal, start" in words(Q=turn, K=turn, causal=True)


def test_an_axis_of_few_counts_has_ticks(circle: xr.Dataset) -> None:
    for counts in ([25, 27], [1, 1], [26, 26], [1, 32], [700, 701]):
        values = np.resize(counts, circle["cluster_count"].shape).astype(float)
        drawn = plots.simulation(circle.assign(cluster_count=(circle["cluster_count"].dims, values)))
        axis = drawn.layout.yaxis2
        seen = [one for one in axis.tickvals if axis.range[0] <= np.log10(one) <= axis.range[1]]
        assert 2 <= len(seen) <= 6, (counts, seen)
        assert [float(one.replace(",", "")) for one in axis.ticktext] == list(axis.tickvals)
    assert log_axis(np.array([1.0, 32.0]))["tickvals"][:6] == [0.1, 0.2, 0.5, 1, 2, 5]


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
