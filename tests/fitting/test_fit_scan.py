"""Fits of labelled data."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from ontogeny.errors import UsageError
from ontogeny.fitting import EmergenceCurve, evaluate, fit, fit_curve


class Holder:
    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset


def test_the_ratio_of_means_is_fitted(scan: xr.Dataset, curves: list[EmergenceCurve]) -> None:
    fits = fit(scan, level=None)
    assert fits.attrs["definition"] == "ratio of means"
    assert fits.attrs["metric"] == "massive_ratio"
    assert fits["verdict"].dims == ("depth",)
    assert fits["verdict"].values.tolist() == ["ok"] * 3
    assert fits["regime"].values.tolist() == ["early peak", "log increase", "monotone decay"]
    for depth, curve in enumerate(curves):
        for name in ("A1", "A2", "K", "beta", "tau0"):
            assert float(fits[name].sel(depth=depth)) == pytest.approx(getattr(curve, name), rel=1e-4), name
    mean_of_ratios = scan["massive_ratio"].mean("sequence").transpose("depth", "checkpoint")
    assert np.abs(fits["observed"].values / mean_of_ratios.values - 1).min() > 0.1


def test_what_was_fitted_comes_along(scan: xr.Dataset, curves: list[EmergenceCurve]) -> None:
    observed = fit(scan, level=None)["observed"]
    assert observed.dims == ("depth", "checkpoint")
    np.testing.assert_array_equal(observed["step"], scan["step"])
    np.testing.assert_array_equal(observed["revision"], scan["revision"])
    np.testing.assert_allclose(observed.sel(depth=1), curves[1](scan["step"].values))
    np.testing.assert_allclose(observed.sel(step=1000), [curve(1000) for curve in curves])


def test_every_variable_is_described(scan: xr.Dataset) -> None:
    for fits in (fit(scan), fit(scan, "sink_rate")):
        for name, variable in fits.data_vars.items():
            assert {"long_name", "units", "source"} <= set(variable.attrs), name
    assert fits.attrs["series"] == "three curves"
    assert fits["beta"].attrs["units"] == "1/steps"


def test_a_scan_and_its_dataset_are_fitted_alike(scan: xr.Dataset) -> None:
    xr.testing.assert_identical(fit(Holder(scan), level=None), fit(scan, level=None))


def test_other_metrics(scan: xr.Dataset) -> None:
    rate = fit(scan, "sink_rate", level=None)
    assert rate["A1"].dims == ("layer", "head")
    assert rate["observed"].dims == ("layer", "head", "checkpoint")
    assert rate.attrs["definition"] == "position 0, epsilon 0.3"
    expected = scan["sink_rate"].sel(layer=1, head=2, position=0, epsilon=0.3)
    np.testing.assert_array_equal(rate["observed"].sel(layer=1, head=2), expected)
    one = fit_curve(scan["step"].values, expected.values)
    assert float(rate["r2"].sel(layer=1, head=2)) == pytest.approx(one.r2)

    top = fit(scan, "top_activation", level=None)
    assert top.attrs["definition"] == "mean over sequences, rank 1"
    np.testing.assert_allclose(
        top["observed"], scan["top_activation"].sel(rank=1).mean("sequence").transpose("depth", "checkpoint")
    )


@pytest.mark.parametrize("metric", ["nonsense", "top_position", "head_class", "step"])
def test_what_cannot_be_fitted_is_refused(scan: xr.Dataset, metric: str) -> None:
    with pytest.raises(
        UsageError, match=f"massive_ratio, top_activation, median_activation, sink_rate; got '{metric}'"
    ):
        fit(scan, metric)


def test_a_ratio_without_its_parts_is_refused(scan: xr.Dataset) -> None:
    with pytest.raises(UsageError, match="needs top_activation and median_activation"):
        fit(scan.drop_vars("median_activation"))


def test_a_missing_epsilon_is_refused(scan: xr.Dataset) -> None:
    with pytest.raises(UsageError, match=r"expected sink_rate to hold epsilon 0.3"):
        fit(scan.sel(epsilon=[0.1, 0.2]), "sink_rate")


def test_what_is_no_scan_is_refused(scan: xr.Dataset) -> None:
    with pytest.raises(UsageError, match="`checkpoint` dimension"):
        fit(scan.isel(checkpoint=0))


def test_doubtful_checkpoints_are_left_out_and_counted(scan: xr.Dataset) -> None:
    verdicts = scan["verdict"].values.copy()
    verdicts[[3, 5]] = "duplicate"
    steps = scan["step"].values.copy()
    steps[[5, 7, 8]] = -1
    doubtful = scan.drop_indexes("step").assign_coords(step=("checkpoint", steps), verdict=("checkpoint", verdicts))
    fits = fit(doubtful, level=None)
    kept = [i for i in range(scan.sizes["checkpoint"]) if i not in (3, 5, 7, 8)]
    np.testing.assert_array_equal(fits["observed"]["step"], scan["step"].values[kept])
    assert fits.attrs["checkpoints_fitted"] == len(kept)
    assert fits.attrs["left_out_without_step"] == 3
    assert fits.attrs["left_out_by_verdict"] == 1
    assert set(fits["verdict"].values) == {"ok"}


def test_the_order_of_checkpoints_does_not_matter(scan: xr.Dataset) -> None:
    xr.testing.assert_allclose(fit(scan.isel(checkpoint=slice(None, None, -1)), level=None), fit(scan, level=None))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_checkpoints_are_a_verdict(scan: xr.Dataset, count: int) -> None:
    fits = fit(scan.isel(checkpoint=slice(0, count)))
    assert fits["verdict"].values.tolist() == ["too few points"] * 3
    assert fits["regime"].values.tolist() == ["none"] * 3
    assert np.isnan(fits["A1"]).all()
    assert fits["points"].values.tolist() == [count] * 3
    assert np.isnan(evaluate(fits, [0, 10])).all()


def test_one_bad_depth_does_not_spoil_the_others(scan: xr.Dataset) -> None:
    spoiled = scan.copy(deep=True)
    spoiled["median_activation"].values[4, :, 1] = 0
    spoiled["top_activation"].values[6, 1, 2, 0] = np.nan
    assert fit(spoiled, level=None)["verdict"].values.tolist() == ["ok", "not finite", "not finite"]


def test_evaluate_gives_the_curves(scan: xr.Dataset, curves: list[EmergenceCurve]) -> None:
    steps = np.array([0, 3, 700, 9999])
    values = evaluate(fit(scan, level=None), steps)
    assert values.dims == ("depth", "step")
    assert {"long_name", "units", "source"} <= set(values.attrs)
    np.testing.assert_allclose(values, [curve(steps) for curve in curves], rtol=1e-6)
    assert evaluate(fit(scan, "sink_rate", level=None), steps).dims == ("layer", "head", "step")
    for wrong in ([-1.0], [np.nan], 3):
        with pytest.raises(UsageError, match="expected steps of shape"):
            evaluate(fit(scan, level=None), wrong)


def test_torch_is_not_imported() -> None:
    code = "import sys, ontogeny.fitting; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
