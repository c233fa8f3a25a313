"""What the embedded series is for: seen with the project's own probes, sinks emerge, drain, and activations tower."""

from __future__ import annotations

import pytest

import ontogeny


@pytest.fixture(scope="module")
def dataset():
    return ontogeny.scan("pocket", sequences=32).dataset


def test_a_sink_emerges_at_the_start_token(dataset):
    rate = dataset.sink_rate.sel(epsilon=0.3, position=0)
    assert (rate.sel(step=0) == 0).all()
    assert (rate.isel(checkpoint=-1).max("head") >= 0.5).any()
    assert (dataset.top_sink_position.isel(checkpoint=-1).sel(layer=1) == 0).all()


def test_the_value_of_the_sink_drains(dataset):
    rate, value = dataset.sink_rate.sel(epsilon=0.3, position=0), dataset.value_norm.sel(position=0)
    sinks = rate.isel(checkpoint=-1) >= 0.5
    assert float(value.isel(checkpoint=-1).where(sinks).min()) < 0.3 * 63 / 64
    assert float(value.sel(step=0).min()) > 0.8
    drained = dataset.waiver_rate.sel(position=0)
    assert (drained.sel(step=0) == 0).all() and float(drained.isel(checkpoint=-1).max()) >= 0.5


def test_an_activation_towers_over_the_median_in_the_middle_of_the_network(dataset):
    ratio = dataset.top_activation.sel(rank=1).mean("sequence") / dataset.median_activation.mean("sequence")
    growth = ratio.isel(checkpoint=-1) / ratio.sel(step=0)
    assert float(growth.sel(depth=1)) > 4 and float(growth.sel(depth=2)) > 4
    assert (dataset.top_position.isel(checkpoint=-1).sel(rank=1, depth=2) == 0).all()
    assert (dataset.massive_rate == 0).all()


def test_the_sink_comes_before_the_drain(dataset):
    sink = dataset.sink_rate.sel(epsilon=0.3, position=0).max(("layer", "head")) >= 0.5
    drain = dataset.waiver_rate.sel(position=0).max(("layer", "head")) >= 0.5
    first_sink, first_drain = (int(dataset.step.values[marks.values][0]) for marks in (sink, drain))
    assert 64 < first_sink <= 128 < 1000 <= first_drain


def test_fits_of_the_series_have_verdicts_and_follow_the_data(dataset):
    fits = ontogeny.fit(dataset)
    assert fits.sizes["depth"] == 4 and (fits.verdict != "").all()
    assert float(fits.r2.sel(depth=2)) > 0.9
