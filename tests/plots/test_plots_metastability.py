"""Figures of metastability and of lagged correlations: their numbers are the dataset's, and chance stands beside."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny import plots
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.plots.report import render
from tests.plots.test_plots_report import array, read
from tests.synthetic import POCKET_STEPS, scan_dataset, with_clusters

QUANTITIES = ("cluster_count", "plateau_share", "mean_cosine", "matrix_entropy")
KINDS = ("", "_shuffled", "_reordered", "_random")


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return with_clusters(scan_dataset(layers=4, width=58))


def measured(dataset: xr.Dataset, name: str, selection: str, threshold: float) -> xr.DataArray:
    values = dataset[name].sel(selection=selection)
    return values.sel(threshold=threshold) if "threshold" in values.dims else values


def test_maps_show_each_quantity_beside_its_baselines(dataset: xr.Dataset) -> None:
    fig = plots.metastability(dataset, "without_sinks", 0.99)
    assert len(fig.data) == 16
    for trace, (quantity, kind) in zip(fig.data, product(QUANTITIES, KINDS), strict=True):
        values = measured(dataset, quantity + kind, "without_sinks", 0.99).transpose("depth", "checkpoint").values
        np.testing.assert_allclose(trace.customdata, values, rtol=1e-6)
        assert (trace.zmin, trace.zmax) == (0, 1) and len(trace.x) == len(POCKET_STEPS) + 1
        tokens = {"_reordered": 57, "_random": 55}.get(kind, 60)
        if quantity == "cluster_count":
            values = np.log(values) / np.log(tokens - 10)
        if quantity == "matrix_entropy":
            values = values / np.log(min(tokens, 58))
        np.testing.assert_allclose(trace.z, values, rtol=1e-5)
    titles = [note.text for note in fig.layout.annotations[:4]]
    assert titles == ["log count / log n", "shuffled states", "reordered tokens", "random tokens"]
    assert "without sink tokens, threshold 0.99; n tokens, width d = 58" in fig.layout.title.subtitle.text


def test_without_a_width_entropy_is_bounded_by_the_tokens_alone_and_that_is_said(dataset: xr.Dataset) -> None:
    fig = plots.metastability(dataset.drop_attrs(deep=False).assign_attrs(source="somewhere"))
    np.testing.assert_allclose(fig.data[12].z, dataset.matrix_entropy[:, 0].T / np.log(60), rtol=1e-5)
    assert "width d not known" in fig.layout.title.subtitle.text


def test_random_tokens_are_drawn_only_where_they_were_measured() -> None:
    dataset = with_clusters(scan_dataset(), baselines=False)
    assert len(plots.metastability(dataset).data) == 8
    assert len(plots.metastability(dataset.drop_vars("matrix_entropy_shuffled")).data) == 7


def test_one_token_gives_no_number_instead_of_a_division_by_zero() -> None:
    dataset = with_clusters(scan_dataset())
    dataset["cluster_tokens"][:, :, 2] = dataset["paired_tokens"][:, :, 2] = 1
    fig = plots.metastability(dataset)
    assert np.isnan(fig.data[0].z[2]).all() and np.isnan(fig.data[12].z[2]).all()


def test_a_single_checkpoint_gives_profiles_with_dotted_and_dashed_baselines() -> None:
    dataset = with_clusters(scan_dataset((143_000,), layers=5))
    fig = plots.metastability(dataset)
    assert [trace.name for trace in fig.data[:4]] == [
        "measured",
        "shuffled states",
        "reordered tokens",
        "random tokens",
    ]
    assert [trace.line.dash for trace in fig.data[:4]] == [None, "dot", "dash", "dash"]
    for trace, (quantity, kind) in zip(fig.data, product(QUANTITIES, KINDS), strict=True):
        np.testing.assert_allclose(trace.y, measured(dataset, quantity + kind, "all", 0.9).values[0], rtol=1e-6)
    for trace, kind in zip(fig.data[:4], KINDS, strict=True):
        error = measured(dataset, f"cluster_count_error{kind}", "all", 0.9).values[0]
        np.testing.assert_allclose(trace.error_y.array, 2 * error, rtol=1e-6)
    assert fig.data[4].error_y.array is None
    assert fig.layout.yaxis.type == "log" and "step 143,000" in fig.layout.title.subtitle.text


def test_what_was_not_measured_or_is_no_choice_is_said(dataset: xr.Dataset) -> None:
    with pytest.raises(OntogenyError, match="no `cluster_count`; scan again with the probe `clusters`"):
        plots.metastability(scan_dataset())
    with pytest.raises(OntogenyError, match="no `matrix_entropy`; scan again with the probe `clusters`"):
        plots.metastability(dataset.drop_vars("matrix_entropy"))
    with pytest.raises(OntogenyError, match="no `paired_tokens_random`; scan again"):
        plots.metastability(dataset.drop_vars("paired_tokens_random"))
    with pytest.raises(UsageError, match="expected the selection all or without_sinks, got 'sinks'"):
        plots.metastability(dataset, "sinks")
    with pytest.raises(OntogenyError, match=r"threshold 0.5 was not measured: expected one of 0.9, 0.99, 0.999"):
        plots.metastability(dataset, threshold=0.5)


def test_lags_have_a_panel_for_each_pair_and_fill_what_is_significant(dataset: xr.Dataset) -> None:
    valley = dataset["matrix_entropy"] + (dataset["depth"] != 2)  # it does not wander
    found = ontogeny.lags(dataset.assign(matrix_entropy=valley), replicates=99)
    found["p_value"][0, 0, :3] = 0.05
    fig = plots.lags(found)
    panels = fig.data[: 2 * found.sizes["response"]]
    for i, trace in enumerate(panels):
        pair = found.isel(response=i // 2, driver=i % 2)
        np.testing.assert_array_equal(trace.y, pair["correlation"])
        has = np.isfinite(pair["correlation_low"].values)
        lows = (pair["correlation"] - pair["correlation_low"]).values
        np.testing.assert_allclose(np.array(trace.error_y.arrayminus)[has], lows[has])
        filled = np.array(trace.marker.color) != "#ffffff"
        np.testing.assert_array_equal(filled, pair["p_value"].values <= 0.05)
    assert [trace.name for trace in fig.data[-2:]] == ["p ≤ 0.05", "p > 0.05"]
    assert fig.layout.xaxis.ticktext[3] == "0" and fig.layout.xaxis.ticktext[4] == "+1<br>2x"
    notes = [note.text for note in fig.layout.annotations]
    assert "cluster count after sink rate" in notes and "constant" in notes


def test_lags_that_cannot_be_drawn_are_refused(dataset: xr.Dataset) -> None:
    with pytest.raises(OntogenyError, match=r"expected found.sel\(depth=...\)"):
        plots.lags(ontogeny.lags(dataset, by_depth=True, replicates=9))
    with pytest.raises(
        OntogenyError, match=r"no correlation to draw .too few checkpoints.: expected at least 8 changes"
    ):
        plots.lags(ontogeny.lags(dataset.isel(checkpoint=slice(4)), replicates=9))


def test_the_report_has_a_section_only_where_clusters_were_measured(tmp_path: Path, dataset: xr.Dataset) -> None:
    _, page, figures = read(plots.write_report(dataset, None, tmp_path / "r.html"))
    assert {"metastability-all", "metastability-without-sinks", "lags"} <= figures.keys()
    assert "\nMetastability\n" in page.text and "A plateau is a run of depths" in page.text
    np.testing.assert_allclose(
        array(figures["metastability-without-sinks"]["data"][0]["customdata"]),
        measured(dataset, "cluster_count", "without_sinks", 0.9).values.T,
        rtol=1e-6,
    )
    assert "Metastability" not in render(scan_dataset(), None)
    single = render(with_clusters(scan_dataset((5,))), None)
    assert 'id="metastability-all"' in single and 'id="lags"' not in single
    few = render(with_clusters(scan_dataset(POCKET_STEPS[:4])), None)
    assert "There is no correlation to draw" in few and "too few checkpoints" in few
