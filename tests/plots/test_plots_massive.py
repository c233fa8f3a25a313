"""Figures of massive activations: ratios, their curves, and their sites."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ontogeny import plots
from ontogeny.errors import OntogenyError
from ontogeny.fitting import fit
from ontogeny.plots.massive import drawable
from ontogeny.plots.sites import find_sites
from tests.synthetic import POCKET_STEPS, scan_dataset


def ratio_of_means(dataset, depth: int) -> np.ndarray:
    top = dataset["top_activation"].isel(depth=depth).sel(rank=1).values.astype(float)
    return top.mean(axis=1) / dataset["median_activation"].isel(depth=depth).values.astype(float).mean(axis=1)


def test_each_depth_is_a_line_of_the_ratio_of_means() -> None:
    dataset = scan_dataset()
    fig = plots.massive_ratio(dataset)
    assert [trace.name for trace in fig.data] == [f"depth {depth}" for depth in range(4)]
    for depth, trace in enumerate(fig.data):
        np.testing.assert_allclose(trace.y, ratio_of_means(dataset, depth), rtol=1e-6)
        np.testing.assert_allclose(trace.x, np.log10(1 + np.array(POCKET_STEPS)))
        assert trace.text[-1] == "step 10,000"
        assert trace.mode == "lines+markers"
    assert fig.layout.yaxis.type == "log"
    assert fig.layout.yaxis.title.text == "max|h| / median|h|"


def test_fits_add_their_curve_to_the_points() -> None:
    dataset = scan_dataset()
    fits = fit(dataset, level=None)
    fig = plots.massive_ratio(dataset, fits)
    curves = {trace.name: trace for trace in fig.data if trace.mode == "lines"}
    points = {trace.name: trace for trace in fig.data if trace.mode == "markers"}
    assert points.keys() == {f"depth {depth}" for depth in range(4)}
    assert "depth 2, fit" in curves
    A1, A2, K, beta, tau0 = (float(fits[name].sel(depth=2)) for name in ("A1", "A2", "K", "beta", "tau0"))
    curve = curves["depth 2, fit"]
    t = 10.0 ** np.asarray(curve.x, dtype=float) - 1
    expected = np.exp(-beta * t) * (A1 * np.log(t + tau0) + A2) + K
    np.testing.assert_allclose(curve.y, expected, rtol=1e-3, atol=1e-2)
    assert (curve.x[0], curve.x[-1]) == pytest.approx((0, np.log10(10_001)))
    assert f"R² {float(fits['r2'].sel(depth=2)):.3f}" in curve.hovertemplate
    np.testing.assert_allclose(points["depth 2"].y, fits["observed"].sel(depth=2).values, rtol=1e-6)
    assert fig.layout.yaxis.type != "log"


def test_a_curve_that_is_not_the_best_one_is_dotted_and_an_absent_one_is_not_drawn() -> None:
    dataset = scan_dataset()
    fits = fit(dataset, level=None)
    verdicts = np.array(["ok", "did not converge", "not identifiable", "constant"], dtype=object)
    fits["verdict"] = ("depth", verdicts)
    for name in ("A1", "A2", "K", "beta", "tau0"):
        fits[name].loc[{"depth": 3}] = np.nan
    drawn = {trace.name: trace for trace in plots.massive_ratio(dataset, fits).data}
    assert [drawn[f"depth {depth}, fit"].line.dash for depth in range(3)] == ["solid", "dot", "solid"]
    assert "did not converge" in drawn["depth 1, fit"].hovertemplate
    assert "depth 3, fit" not in drawn
    assert drawn["depth 3"].mode == "lines+markers"


def test_points_are_ratios_of_means_and_curves_are_the_fits() -> None:
    dataset = scan_dataset()
    fits = fit(dataset, level=None)
    traces = {trace.name: trace for trace in plots.massive_ratio(dataset, fits).data}
    means = [dataset[name].values.astype(float) for name in ("top_activation", "median_activation")]
    expected = means[0][:, :, 2, 0].mean(axis=1) / means[1][:, :, 2].mean(axis=1)
    np.testing.assert_allclose(traces["depth 2"].y, expected, rtol=1e-6)
    row = fits.sel(depth=2)
    t = 10 ** np.asarray(traces["depth 2, fit"].x, dtype=float) - 1
    curve = np.exp(-row.beta.item() * t) * (row.A1.item() * np.log(t + row.tau0.item()) + row.A2.item()) + row.K.item()
    np.testing.assert_allclose(traces["depth 2, fit"].y, curve, rtol=1e-4)


def test_fits_of_another_metric_are_refused() -> None:
    dataset = scan_dataset()
    with pytest.raises(OntogenyError, match="these are of `sink_score`"):
        plots.massive_ratio(dataset, fit(dataset, "sink_score", level=None))


def test_a_deep_model_has_a_key_instead_of_a_legend() -> None:
    fig = plots.massive_ratio(scan_dataset(layers=12, heads=12, width=48))
    assert not any(trace.showlegend for trace in fig.data)
    assert len(fig.layout.shapes) == 13
    colours = [trace.line.color for trace in fig.data]
    assert [shape.fillcolor for shape in fig.layout.shapes] == colours
    assert [note.text for note in fig.layout.annotations] == ["0", "3", "6", "9", "12", "depth"]


def test_a_single_checkpoint_is_a_profile_over_depth() -> None:
    dataset = scan_dataset((-1,), layers=30, heads=2)
    (trace,) = plots.massive_ratio(dataset, fit(dataset, level=None)).data
    assert trace.x.tolist() == list(range(31))
    np.testing.assert_allclose(trace.y, [ratio_of_means(dataset, depth)[0] for depth in range(31)], rtol=1e-6)


def test_only_fits_with_a_curve_over_known_steps_are_drawable() -> None:
    dataset = scan_dataset()
    fits = fit(dataset, level=None)
    assert drawable(dataset, fits) is fits
    assert drawable(dataset, None) is None
    assert drawable(dataset, fit(dataset, "sink_score", level=None)) is None
    assert drawable(scan_dataset((-1,) * 8), fits) is None
    few = scan_dataset((0, 1, 2))
    assert drawable(few, fit(few, level=None)) is None


def test_sites_are_the_counted_shares() -> None:
    dataset = scan_dataset(layers=6, heads=2, sequences=40, width=4096)
    sites = find_sites(dataset)
    first = dataset[["top_position", "top_dimension"]].sel(rank=1)
    last = first.isel(checkpoint=-1)
    for depth in range(7):
        at_depth = last.isel(depth=depth)
        pairs = zip(at_depth["top_position"].values.tolist(), at_depth["top_dimension"].values.tolist(), strict=True)
        counts = Counter(pairs)
        np.testing.assert_allclose(sites.by_depth[:, depth], [counts[place] / 40 for place in sites.places])
    blocks = first.isel(checkpoint=12, depth=slice(1, None))
    pairs = zip(blocks["top_position"].values.ravel(), blocks["top_dimension"].values.ravel(), strict=True)
    counts = Counter(pairs)
    np.testing.assert_allclose(sites.by_step[:, 12], [counts[place] / (40 * 6) for place in sites.places])
    assert set(sites.places[:2]) == {(0, 1024), (0, 2048)}
    assert len(sites.places) <= 8


def test_the_sites_figure_shows_them_and_the_rest() -> None:
    dataset = scan_dataset(layers=6, heads=2, sequences=40, width=4096)
    sites = find_sites(dataset)
    rest, shown, rest_by_depth, by_depth = plots.massive_sites(dataset).data
    np.testing.assert_allclose(shown.z, sites.by_step[::-1], rtol=1e-6)
    np.testing.assert_allclose(by_depth.z, sites.by_depth[::-1], rtol=1e-6)
    np.testing.assert_allclose(rest.z[0] + shown.z.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(rest_by_depth.z[0] + by_depth.z.sum(axis=0), 1, rtol=1e-5)
    layout = plots.massive_sites(dataset).layout
    position, dimension = sites.places[0]
    assert layout.yaxis.ticktext[-1] == f"pos {position}, dim {dimension}"
    assert layout.yaxis.ticktext[0] == "elsewhere"


def test_the_sites_of_a_single_checkpoint_have_one_panel() -> None:
    fig = plots.massive_sites(scan_dataset((-1,)))
    assert len(fig.data) == 2
    assert any(note.text == "by depth, at main" for note in fig.layout.annotations)


def test_no_common_site_leaves_the_rest_alone() -> None:
    dataset = scan_dataset((0,), sequences=64, width=4096)
    assert find_sites(dataset).places == ()
    np.testing.assert_allclose(plots.massive_sites(dataset).data[0].z, 1)


@pytest.mark.parametrize(
    ("draw", "variable"), [(plots.massive_ratio, "top_activation"), (plots.massive_sites, "top_dimension")]
)
def test_missing_variables_are_named(draw: object, variable: str) -> None:
    with pytest.raises(OntogenyError, match=f"no `{variable}`; scan again with the probe `massive`"):
        draw(scan_dataset().drop_vars(variable))


def test_intervals_of_peaks_and_last_values_are_bars() -> None:
    dataset = scan_dataset()
    fits = fit(dataset)
    traces = {trace.name: trace for trace in plots.massive_ratio(dataset, fits).data}
    row = fits.sel(depth=2)
    bars = traces["depth 2, intervals"]
    np.testing.assert_allclose(bars.y[-1], float(row["final_value"]))
    np.testing.assert_allclose(bars.y[-1] + bars.error_y.array[-1], float(row["final_value_high"]))
    np.testing.assert_allclose(bars.y[-1] - bars.error_y.arrayminus[-1], float(row["final_value_low"]))
    assert len(bars.y) == 1 + np.isfinite(float(row["peak_value"]))
    assert not any("intervals" in trace.name for trace in plots.massive_ratio(dataset, fit(dataset, level=None)).data)
