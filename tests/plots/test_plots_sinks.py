"""Figures of sinks: the numbers in their traces are the dataset's."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from ontogeny import plots
from ontogeny.errors import OntogenyError
from tests.synthetic import POCKET_STEPS, PYTHIA_STEPS, scan_dataset

UNAVAILABLE = "unavailable: this <b>model</b> calls no attention function"


def test_sink_rate_shows_the_mean_of_heads_over_step_and_layer() -> None:
    dataset = scan_dataset(layers=3, heads=4)
    fig = plots.sink_rate(dataset, epsilon=0.4, position=0)
    assert isinstance(fig, go.Figure)
    expected = dataset["sink_rate"].sel(epsilon=0.4, position=0).mean("head").transpose("layer", "checkpoint")
    np.testing.assert_allclose(fig.data[0].z, expected.values, rtol=1e-6)
    assert fig.data[0].text[2][-1] == "step 10,000"
    assert fig.data[0].customdata[2][-1][0] == 2
    assert (fig.data[0].zmin, fig.data[0].zmax) == (0, 1)
    assert "ε = 0.4" in fig.layout.title.subtitle.text
    assert fig.layout.xaxis.title.text == "training step (log scale)"
    assert fig.layout.yaxis.title.text == "layer"


def test_another_position_is_another_figure() -> None:
    dataset = scan_dataset()
    dataset["sink_rate"].loc[{"position": 3}] = 0.25
    np.testing.assert_allclose(plots.sink_rate(dataset, position=3).data[0].z, 0.25)


@pytest.mark.parametrize(("name", "value"), [("epsilon", 0.35), ("position", 16)])
def test_what_was_not_measured_is_refused_with_what_was(name: str, value: float) -> None:
    with pytest.raises(OntogenyError, match=rf"{name} {value:g} was not measured: expected one of 0"):
        plots.sink_rate(scan_dataset(), **{name: value})


def test_few_heads_are_lines() -> None:
    dataset = scan_dataset(layers=3, heads=2)
    fig = plots.sink_heads(dataset)
    rates = dataset["sink_rate"].sel(epsilon=0.3, position=0)
    assert [trace.type for trace in fig.data] == ["scatter"] * 6
    assert [trace.name for trace in fig.data][:2] == ["layer 0 head 0", "layer 0 head 1"]
    for trace, (layer, head) in zip(fig.data, np.ndindex(3, 2), strict=True):
        np.testing.assert_array_equal(trace.y, rates.isel(layer=layer, head=head).values)
        np.testing.assert_allclose(trace.x, np.log10(1 + np.array(POCKET_STEPS)))
        assert trace.text[0] == "step 0"


@pytest.mark.parametrize(("layers", "heads"), [(4, 6), (12, 12), (32, 32)])
def test_many_heads_are_rows_that_name_their_head(layers: int, heads: int) -> None:
    dataset = scan_dataset(PYTHIA_STEPS, layers=layers, heads=heads, sequences=4, width=heads * 8)
    fig = plots.sink_heads(dataset)
    rates = dataset["sink_rate"].sel(epsilon=0.3, position=0).values
    (trace,) = fig.data
    assert trace.z.shape == (layers * heads, len(PYTHIA_STEPS))
    of_row = trace.customdata[:, 0]
    assert {tuple(place) for place in of_row} == set(np.ndindex(layers, heads))
    for row, (layer, head) in zip(trace.z, of_row, strict=True):
        np.testing.assert_array_equal(row, rates[:, layer, head])
    assert of_row[:, 0].tolist() == sorted(of_row[:, 0])
    assert 400 <= fig.layout.height <= 1100


def test_rows_too_many_to_be_named_are_sorted_within_their_layer() -> None:
    dataset = scan_dataset(PYTHIA_STEPS, layers=12, heads=12, sequences=20, width=96)
    last = plots.sink_heads(dataset).data[0].z[:, -1].reshape(12, 12)
    assert (np.diff(last, axis=1) >= 0).all()


def test_a_single_checkpoint_is_drawn_over_layers_and_heads() -> None:
    dataset = scan_dataset((-1,), layers=5, heads=3, width=48)
    rates = dataset["sink_rate"].sel(epsilon=0.3, position=0).isel(checkpoint=0)
    bars = plots.sink_rate(dataset)
    np.testing.assert_allclose(bars.data[0].y, rates.mean("head").values)
    assert "main" in bars.layout.xaxis.title.text
    np.testing.assert_array_equal(plots.sink_heads(dataset).data[0].z, rates.values)


@pytest.mark.parametrize("draw", [plots.sink_rate, plots.sink_heads])
def test_without_attention_the_reason_is_given(draw: object) -> None:
    with pytest.raises(OntogenyError, match="this <b>model</b> calls no attention function"):
        draw(scan_dataset(attention=UNAVAILABLE))


def test_a_scan_without_the_probe_says_which_one_to_add() -> None:
    dataset = scan_dataset().drop_vars("sink_rate")
    with pytest.raises(OntogenyError, match="scan again with the probe `sinks`"):
        plots.sink_rate(dataset)


def test_a_dataset_without_checkpoints_is_refused() -> None:
    with pytest.raises(OntogenyError, match="at least one `checkpoint`"):
        plots.sink_rate(scan_dataset().isel(checkpoint=[]))


def test_a_long_name_is_cut_in_the_subtitle() -> None:
    subtitle = plots.sink_rate(scan_dataset(series="n" * 200)).layout.title.subtitle.text
    assert subtitle == f"{'n' * 47}…, key position 0, ε = 0.3"


def test_text_from_the_data_is_escaped() -> None:
    dataset = scan_dataset((-1, -1), series="<a href='x'>name</a>")
    fig = plots.sink_rate(dataset.assign_coords(checkpoint=np.array(["<i>one", "two"], dtype=object)))
    assert fig.layout.title.subtitle.text.startswith("&lt;a href='x'&gt;name&lt;/a&gt;")
    assert fig.layout.xaxis.ticktext[0] == "&lt;i&gt;one"
    assert fig.data[0].text[0][0] == "&lt;i&gt;one"
