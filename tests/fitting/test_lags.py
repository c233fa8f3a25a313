"""Lagged correlations of a scan: what is correlated, what is said where it cannot be, and how lags are stated."""

from __future__ import annotations

import time

import numpy as np
import pytest
import xarray as xr
from scipy.stats import pearsonr

import ontogeny
from ontogeny.errors import UsageError
from tests.synthetic import POCKET_STEPS, PYTHIA_STEPS, scan_dataset, with_clusters

STEPS = (0, *(2**i for i in range(30)))


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    """Every depth has changes of its own: the first and the last too, and the valley wanders."""
    made = with_clusters(scan_dataset(STEPS, layers=4))
    draw = np.random.default_rng(9)
    names = ("cluster_count", "plateau_share", "mean_cosine", "matrix_entropy", "anisotropy")
    return made.assign({name: made[name] * draw.uniform(0.5, 1.5, made[name].shape) + 0.1 for name in names})


@pytest.fixture(scope="module")
def found(dataset: xr.Dataset) -> xr.Dataset:
    return ontogeny.lags(dataset, replicates=199)


def test_every_pair_has_a_verdict_and_a_number_only_where_it_is_ok(found: xr.Dataset) -> None:
    assert found["correlation"].dims == ("driver", "response", "lag")
    assert found["lag"].values.tolist() == list(range(-3, 4))
    has = found["verdict"] == "ok"
    assert has.any()
    for name in ("correlation", "correlation_low", "correlation_high", "p_value"):
        assert (np.isfinite(found[name]) == has).where(found["verdict"] != "no interval", True).all()
    fine = found.where(has)
    assert not (fine["correlation_low"] > fine["correlation"]).any()
    assert not (fine["correlation_high"] < fine["correlation"]).any()
    assert found["pairs"].sel(lag=-2, driver="sink_rate", response="mean_cosine") == len(STEPS) - 1 - 2
    assert {*found["driver"].values, *(f"response_{name}" for name in found["response"].values)} <= found.attrs.keys()


def test_the_series_are_what_the_attributes_say(dataset: xr.Dataset, found: xr.Dataset) -> None:
    ratio = dataset["top_activation"].sel(rank=1).astype(float).mean("sequence")
    ratio = ratio / dataset["median_activation"].astype(float).mean("sequence")
    here = dataset.sel(selection="all").astype(float)
    drivers = {
        "sink_rate": dataset["sink_rate"].astype(float).sel(epsilon=0.3, position=0).mean(["layer", "head"]),
        "massive_ratio": np.log(ratio.max("depth")),
    }
    responses = {
        "cluster_count": np.log(here["cluster_count"].sel(threshold=0.9)).isel(depth=slice(1, None)).mean("depth"),
        "plateau_share": here["plateau_share"].sel(threshold=0.9).isel(depth=slice(1, None)).mean("depth"),
        "mean_cosine": here["mean_cosine"].isel(depth=slice(1, None)).mean("depth"),
        "matrix_entropy": here["matrix_entropy"].isel(depth=slice(1, -1)).min("depth"),
        "valley_depth": 1.0 + here["matrix_entropy"].isel(depth=slice(1, -1)).argmin("depth"),
        "anisotropy": here["anisotropy"].isel(depth=slice(1, -1)).max("depth"),
    }
    for name, driver in drivers.items():
        for other, response in responses.items():
            changes = np.diff(driver.values)[:-2], np.diff(response.values)[2:]
            expected = pearsonr(*changes).statistic
            got = float(found["correlation"].sel(driver=name, response=other, lag=2))
            assert got == pytest.approx(expected, abs=1e-9), (name, other)


def test_a_response_that_follows_has_its_lag(dataset: xr.Dataset) -> None:
    """The valley is made to repeat the sink rate two checkpoints later."""
    rng = np.random.default_rng(4)
    walk = np.cumsum(rng.normal(size=len(STEPS) + 2))
    moved = dataset.copy()
    moved["sink_rate"] = (0 * dataset["sink_rate"]) + xr.DataArray(walk[2:], dims="checkpoint")
    moved["matrix_entropy"] = (0 * dataset["matrix_entropy"]) + xr.DataArray(-walk[:-2], dims="checkpoint")
    one = ontogeny.lags(moved, replicates=999).sel(driver="sink_rate", response="matrix_entropy")
    assert one["correlation"].sel(lag=2) == pytest.approx(-1) and one["p_value"].sel(lag=2) <= 0.01
    assert (one["correlation"].drop_sel(lag=2) > -0.7).all()


def test_lags_are_stated_as_ratios_of_steps(found: xr.Dataset) -> None:
    np.testing.assert_allclose(found["lag_ratio"], 2.0 ** found["lag"])
    mixed = ontogeny.lags(with_clusters(scan_dataset(PYTHIA_STEPS)), replicates=9)
    ends = np.array(PYTHIA_STEPS[1:], dtype=float)
    assert mixed["lag_ratio"].sel(lag=1) == np.median(ends[1:] / ends[:-1])
    assert mixed["lag_ratio_low"].sel(lag=1) == pytest.approx(143 / 128)
    assert mixed["lag_ratio_high"].sel(lag=1) == 2


def test_by_depth_each_depth_has_its_own(dataset: xr.Dataset) -> None:
    found = ontogeny.lags(dataset, by_depth=True, replicates=99)
    assert found["correlation"].dims == ("driver", "response", "depth", "lag")
    rates = dataset["sink_rate"].astype(float).sel(epsilon=0.3, position=0).mean(["layer", "head"])
    cosine = dataset["mean_cosine"].astype(float).sel(selection="all", depth=3)
    expected = pearsonr(np.diff(rates.values), np.diff(cosine.values)).statistic
    got = found["correlation"].sel(driver="sink_rate", response="mean_cosine", depth=3, lag=0)
    assert got == pytest.approx(expected, abs=1e-9)


def test_selection_and_threshold_choose_the_numbers(dataset: xr.Dataset, found: xr.Dataset) -> None:
    other = ontogeny.lags(dataset, selection="without_sinks", threshold=0.99, replicates=9)
    assert other.attrs["selection"] == "without_sinks" and other.attrs["threshold"] == 0.99
    assert not np.allclose(other["correlation"], found["correlation"])


def verdicts(dataset: xr.Dataset, **options: object) -> dict[tuple[str, str], set[str]]:
    found = ontogeny.lags(dataset, replicates=9, **options)
    return {
        (str(driver), str(response)): set(found["verdict"].sel(driver=driver, response=response).values.ravel())
        for driver in found["driver"].values
        for response in found["response"].values
    }


def test_what_is_missing_is_a_verdict() -> None:
    few = verdicts(with_clusters(scan_dataset(POCKET_STEPS[:8])))
    assert all(one == {"too few checkpoints"} for one in few.values())
    nine = ontogeny.lags(with_clusters(scan_dataset(POCKET_STEPS[:9])), replicates=9)
    here = nine.sel(driver="massive_ratio", response="mean_cosine")
    assert here["verdict"].values.tolist() == ["too few checkpoints" if lag else "ok" for lag in range(-3, 4)]

    unknown = verdicts(with_clusters(scan_dataset((-1, -1, -1))))
    assert all(one == {"too few checkpoints"} for one in unknown.values())

    blind = verdicts(with_clusters(scan_dataset(attention="unavailable: none")))
    assert blind["sink_rate", "mean_cosine"] == {"not measured"}
    assert blind["massive_ratio", "mean_cosine"] == {"ok"}

    odd = with_clusters(scan_dataset())
    odd["mean_cosine"] = xr.full_like(odd["mean_cosine"], 0.25)
    odd["anisotropy"][3] = np.nan
    found = verdicts(odd.drop_vars("plateau_share"))
    assert found["sink_rate", "mean_cosine"] == {"constant"}
    assert found["sink_rate", "anisotropy"] == {"not finite"}
    assert found["sink_rate", "plateau_share"] == {"not measured"}

    jump = with_clusters(scan_dataset())
    jump["mean_cosine"] = jump["mean_cosine"] * 0 + xr.DataArray(np.arange(20.0) > 9, dims="checkpoint")
    jumped = ontogeny.lags(jump, replicates=99).sel(driver="sink_rate", response="mean_cosine")
    assert jumped["verdict"].sel(lag=0) == "no interval" and np.isnan(jumped["correlation_low"].sel(lag=0))

    shallow = verdicts(with_clusters(scan_dataset(layers=1)))
    assert shallow["sink_rate", "matrix_entropy"] == {"not measured"}


def test_flagged_checkpoints_are_left_out() -> None:
    dataset = with_clusters(scan_dataset())
    dataset["verdict"][4] = "duplicate"
    found = ontogeny.lags(dataset, replicates=9)
    assert found.attrs["checkpoints_fitted"] == 19 and found.attrs["left_out"] == "step8 (duplicate)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"selection": "sinks"}, "expected the selection all or without_sinks, got 'sinks'"),
        ({"threshold": 0.5}, "threshold 0.5 was not measured: expected one of 0.9, 0.99, 0.999"),
        ({"level": 1.0}, "expected a level between 0 and 1"),
        ({"replicates": 0}, "1 or more replicates"),
        ({"furthest": -1}, "expected lags of 0 or more checkpoints, got -1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ontogeny.lags(with_clusters(scan_dataset()), **options)


def test_a_scan_without_clusters_names_the_probe() -> None:
    with pytest.raises(UsageError, match="probe `clusters`, it has none: scan again"):
        ontogeny.lags(scan_dataset())


def test_a_hundred_and_fifty_checkpoints_take_seconds() -> None:
    dataset = with_clusters(scan_dataset(tuple(range(0, 150_000, 1000)), layers=12, sequences=4))
    start = time.process_time()
    ontogeny.lags(dataset)
    assert time.process_time() - start < 4
