"""Rivals on every series of a scan."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny.fitting import compare_rivals, fit
from ontogeny.fitting.rivals import FAMILIES, OURS, compare


def test_every_series_is_compared_as_alone(scan: xr.Dataset) -> None:
    fits = fit(scan, level=None)
    compared = compare_rivals(fits)
    assert compared["aicc"].dims == ("depth", "family")
    assert compared["best"].values.tolist() == [OURS] * 3
    alone = compare(scan["step"].values, fits["observed"].sel(depth=1).values)
    for own in alone:
        one = compared.sel(depth=1, family=own.name)
        assert (float(one["r2"]), float(one["aicc"])) == (own.r2, own.aicc)
        assert float(one["forecast"]) == own.forecast
    for variable in compared.data_vars.values():
        assert {"long_name", "units", "source"} <= set(variable.attrs)
    assert compared.attrs["metric"] == "massive_ratio"


def test_heads_have_layers_too(scan: xr.Dataset) -> None:
    few = scan.isel(layer=[1], head=[0, 2], checkpoint=slice(0, None, 2))
    compared = compare_rivals(fit(few, "sink_rate", level=None))
    assert compared["best"].dims == ("layer", "head")
    assert compared["r2"].sizes == {"layer": 1, "head": 2, "family": len(FAMILIES)}
    assert compared["head"].values.tolist() == [0, 2]


def test_a_series_without_a_curve_is_not_compared(scan: xr.Dataset) -> None:
    spoiled = scan.copy(deep=True)
    spoiled["median_activation"].values[4, :, 1] = 0
    compared = compare_rivals(fit(spoiled, level=None))
    assert compared["best"].values.tolist() == [OURS, "none", OURS]
    assert np.isnan(compared["r2"].sel(depth=1)).all()
    few = compare_rivals(fit(scan.isel(checkpoint=slice(0, 4)), level=None))
    assert few["best"].values.tolist() == ["none"] * 3


def test_on_pythia_12b_the_second_order_response_forecasts_better() -> None:
    """As docs/fitting.md says: our curve is not the best forecaster of late checkpoints from these early ones."""
    fits = fit(ontogeny.load_pythia()["12b"], "top_activation", level=None)
    compared = compare_rivals(fits)
    errors = compared["forecast"].mean("depth").to_series().to_dict()
    assert errors["second-order step response"] == pytest.approx(0.13, abs=0.01)
    assert errors[OURS] == pytest.approx(0.39, abs=0.01)
    assert (compared["best"] == "second-order step response").sum() == 32
