"""What the embedded series is for: seen with the project's own probes, sinks emerge, drain, and activations tower."""

from __future__ import annotations

import numpy as np
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


def halfway(series):
    """The first step from which on at least half of the way from step 0 to the end is covered, without a return."""
    covered = (series - series.isel(checkpoint=0)) / (series.isel(checkpoint=-1) - series.isel(checkpoint=0))
    before = np.flatnonzero(covered.values < 0.5)
    return int(series.step.values[before[-1] + 1])


def test_half_way_the_order_is_sink_then_drain_then_massive_activation(dataset):
    lasting = dataset.sel(layer=1, head=0, position=0)  # the first sink that stays
    sink, drain, update = (halfway(lasting[name]) for name in ("sink_score", "value_norm", "update_norm"))
    massive = [halfway(dataset.massive_ratio_of_means.sel(depth=depth)) for depth in (1, 2, 3)]
    assert 96 <= sink <= 256 < 1000 <= drain <= 3000
    assert update == drain < min(massive) and max(massive) <= 6000


def test_first_seen_the_massive_activation_is_in_place_before_the_drain_is_complete(dataset):
    first = {
        "sink": dataset.sink_rate.sel(epsilon=0.3, position=0).max(("layer", "head")) > 0.5,
        "place": (dataset.top_position.sel(rank=1, depth=[1, 2, 3]) == 0).all(("sequence", "depth")),
        "doubled": dataset.massive_ratio_of_means.sel(depth=1)
        >= 2 * dataset.massive_ratio_of_means.sel(depth=1, step=0),
        "waiver": dataset.waiver_rate.sel(position=0).max(("layer", "head")) > 0.5,
    }
    steps = {name: int(dataset.step.values[there.values][0]) for name, there in first.items()}
    assert steps == {"sink": 96, "place": 512, "doubled": 1000, "waiver": 2000}


def test_the_update_of_the_sink_drains_with_its_value(dataset):
    update = dataset.update_norm.sel(position=0)
    sinks = dataset.sink_rate.sel(epsilon=0.3, position=0).isel(checkpoint=-1) >= 0.5
    assert int(sinks.sum()) == 4
    assert float(update.isel(checkpoint=-1).where(sinks).max()) < 0.1
    assert float(update.sel(step=0).min()) > 0.7
    # Before it drains, the lasting sink's update is larger than the others'.
    assert float(update.sel(layer=1, head=0, step=512)) > 1.2


def test_fits_of_the_series_have_verdicts_and_follow_the_data(dataset):
    fits = ontogeny.fit(dataset, level=None)
    assert fits.sizes["depth"] == 4 and (fits.verdict != "").all()
    assert float(fits.r2.sel(depth=2)) > 0.9
