"""Weights and intervals from the spread over sequences, against computation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ontogeny.errors import UsageError
from ontogeny.fitting import EmergenceCurve, compare_rivals, fit, fit_curve
from ontogeny.fitting.resampling import SEED, inverse_variance


@pytest.fixture
def noisy_scan(scan: xr.Dataset) -> xr.Dataset:
    """`scan` with noise of its own in every sequence, more of it at later steps, and more sequences."""
    rng = np.random.default_rng(0)
    wide = scan.isel(sequence=np.tile(np.arange(3), 3)).assign_coords(sequence=np.arange(9)).copy(deep=True)
    growth = np.linspace(0.01, 0.1, wide.sizes["checkpoint"])[:, None, None]
    for name in ("top_activation", "median_activation"):
        noise = 1 + growth * rng.normal(size=wide["median_activation"].shape)
        wide[name].values *= noise if name == "median_activation" else noise[..., None]
    return wide


def test_weights_are_inverse_variances_with_a_floor() -> None:
    variance = np.array([[4.0, 1.0, 2.0], [0.0, 100.0, 100.0], [0.0, 0.0, 0.0], [1.0, np.nan, 3.0]])
    np.testing.assert_allclose(inverse_variance(variance), [[0.25, 1, 0.5], [1, 0.01, 0.01], [1, 1, 1], [1, 1, 1]])


def test_weights_do_not_depend_on_the_unit_where_most_points_have_no_variance() -> None:
    variance = np.array([[0.0, 0.0, 0.0, 1.0, 4.0]])
    weights = inverse_variance(variance)
    np.testing.assert_allclose(weights, [[40, 40, 40, 1, 0.25]])
    np.testing.assert_allclose(inverse_variance(variance * 1e-6), weights * 1e6)


def test_an_infinite_activation_gives_no_fit_and_no_warning(noisy_scan: xr.Dataset) -> None:
    noisy_scan["top_activation"].values[3, 1, 0, 0] = np.inf
    fits = fit(noisy_scan, level=None, weights="sequences", bootstrap=3)
    assert fits["verdict"].values[0] == "not finite"
    assert fits["verdict"].values[1] != "not finite"


def test_no_checkpoints_give_no_curves(noisy_scan: xr.Dataset) -> None:
    fits = fit(noisy_scan.isel(checkpoint=[]), weights="sequences", bootstrap=3)
    assert (fits["verdict"] == "too few points").all()
    assert np.isnan(fits["final_value_boot_low"]).all()
    assert (compare_rivals(fits)["best"] == "none").all()


def test_points_count_by_the_spread_of_the_ratio_of_means(noisy_scan: xr.Dataset) -> None:
    fits = fit(noisy_scan, level=None, weights="sequences")
    assert fits.attrs["weights"] == "sequences"
    top = noisy_scan["top_activation"].sel(rank=1).values
    median = noisy_scan["median_activation"].values
    rng = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        which = rng.integers(9, size=9)
        means.append(top[:, which].mean(1) / median[:, which].mean(1))
    bootstrapped = np.var(means, axis=0) * 9 / 8
    for depth in range(3):
        ratio = top.mean(1)[:, depth] / median.mean(1)[:, depth]
        spread = (top[..., depth] - ratio[:, None] * median[..., depth]) / median.mean(1)[:, depth, None]
        variance = spread.var(axis=1, ddof=1) / 9
        np.testing.assert_allclose(variance, bootstrapped[:, depth], rtol=0.35)  # the delta method's, to its order
        by_hand = fit_curve(noisy_scan["step"].values, ratio, inverse_variance(variance[None])[0])
        assert by_hand.r2 == pytest.approx(float(fits["r2"][depth]), abs=1e-9)
        assert by_hand.final_value == pytest.approx(float(fits["final_value"][depth]), rel=1e-6)


def test_points_of_another_metric_count_by_the_spread_of_its_mean(noisy_scan: xr.Dataset) -> None:
    fits = fit(noisy_scan, "median_activation", level=None, weights="sequences")
    values = noisy_scan["median_activation"].values[..., 1]
    weights = inverse_variance(values.var(axis=1, ddof=1)[None] / 9)[0]
    by_hand = fit_curve(noisy_scan["step"].values, values.mean(axis=1), weights)
    assert by_hand.r2 == pytest.approx(float(fits["r2"].sel(depth=1)), abs=1e-9)
    assert float(fit(noisy_scan, "median_activation", level=None)["r2"].sel(depth=1)) != pytest.approx(by_hand.r2)


def test_the_bootstrap_is_that_of_fits_on_drawn_sequences(noisy_scan: xr.Dataset) -> None:
    fits = fit(noisy_scan, level=None, bootstrap=20)
    draw = np.random.default_rng(SEED)
    top = noisy_scan["top_activation"].sel(rank=1).values[..., 0]
    median = noisy_scan["median_activation"].values[..., 0]
    found: dict[str, list[float]] = {"final_value": [], "peak_step": []}
    for _ in range(20):
        which = draw.integers(9, size=9)
        one = fit_curve(noisy_scan["step"].values, top[:, which].mean(1) / median[:, which].mean(1))
        for name, values in found.items():
            values.append(getattr(one, name))
    for name, values in found.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert float(fits[f"{name}_boot_low"].sel(depth=0)) == pytest.approx(low, rel=1e-4)
        assert float(fits[f"{name}_boot_high"].sel(depth=0)) == pytest.approx(high, rel=1e-4)
    assert fits.attrs["level"] == "0.95"
    assert "final_value_low" not in fits
    assert {"long_name", "units", "source"} <= set(fits["peak_step_boot_low"].attrs)


def test_the_bootstrap_repeats_itself(noisy_scan: xr.Dataset) -> None:
    xr.testing.assert_identical(fit(noisy_scan, level=None, bootstrap=5), fit(noisy_scan, level=None, bootstrap=5))


def test_a_curve_without_a_peak_has_no_bootstrapped_peak(noisy_scan: xr.Dataset) -> None:
    fits = fit(noisy_scan, level=None, bootstrap=20)
    assert np.isnan(fits["peak_step"].sel(depth=2))
    assert np.isnan(fits["peak_step_boot_low"].sel(depth=2))
    assert np.isfinite(fits["final_value_boot_low"]).all()


def test_intervals_stand_beside_the_estimates(noisy_scan: xr.Dataset, curves: list[EmergenceCurve]) -> None:
    fits = fit(noisy_scan)
    assert fits.attrs["level"] == "0.95"
    for name in ("final_value", "half_rise_step"):
        assert (fits[f"{name}_low"] <= fits[name]).all()
        assert (fits[name] <= fits[f"{name}_high"]).all()
    assert "profile likelihood" in fits["final_value_low"].attrs["long_name"]
    assert fits["final_value_low"].attrs["units"] == "1"
    assert fits["peak_step_high"].attrs["units"] == "steps"
    assert np.isnan(fits["peak_step_low"].sel(depth=2))
    narrow = fit(noisy_scan, level=0.5)
    assert (narrow["final_value_high"] < fits["final_value_high"]).all()


@pytest.mark.parametrize("asked", [{"weights": "sequences"}, {"bootstrap": 5}])
def test_what_needs_sequences_is_refused_without(scan: xr.Dataset, asked: dict[str, object]) -> None:
    for dataset, metric in (
        (scan, "sink_rate"),
        (scan.isel(sequence=[0]), "massive_ratio"),
        (scan.isel(sequence=[0]), "median_activation"),
    ):
        with pytest.raises(UsageError, match=f"{metric} is not measured per sequence, or on one sequence only"):
            fit(dataset, metric, level=None, **asked)


def test_other_weights_and_losses_are_refused(scan: xr.Dataset) -> None:
    with pytest.raises(UsageError, match="equal or sequences, got 'tokens'"):
        fit(scan, weights="tokens")
    with pytest.raises(UsageError, match="squares or huber"):
        fit(scan, loss="absolute")
    with pytest.raises(UsageError, match="between 0 and 1"):
        fit(scan, level=95)
    with pytest.raises(UsageError, match="0 or more replicates"):
        fit(scan, bootstrap=-1)


def test_one_sequence_is_fitted(scan: xr.Dataset) -> None:
    fits = fit(scan.isel(sequence=[0]), level=None)
    assert set(fits["verdict"].values) == {"ok"}


def test_a_bad_depth_spoils_neither_weights_nor_bootstrap(noisy_scan: xr.Dataset) -> None:
    noisy_scan["top_activation"].values[6, 1, 2, 0] = np.nan
    noisy_scan["median_activation"].values[4, :, 1] = 0
    fits = fit(noisy_scan, level=None, weights="sequences", bootstrap=5)
    assert fits["verdict"].values.tolist() == ["ok", "not finite", "not finite"]
    assert np.isnan(fits["final_value_boot_low"].values[1:]).all()
    assert np.isfinite(fits["final_value_boot_low"].values[0])
