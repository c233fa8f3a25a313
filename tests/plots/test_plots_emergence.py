"""The one picture, and the theme that all pictures share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest

from ontogeny import plots
from ontogeny.errors import OntogenyError
from ontogeny.fitting import fit
from ontogeny.plots.theme import DEPTH_SCALE, SHARE_SCALE, TEMPLATE, depth_colours, layer_colours
from tests.synthetic import scan_dataset


def test_both_panels_share_the_steps_and_the_colours() -> None:
    dataset = scan_dataset(layers=4, heads=2)
    fig = plots.emergence(dataset, fit(dataset, level=None))
    drawn = {trace.name: trace for trace in fig.data}
    rates = dataset["sink_rate"].sel(epsilon=0.3, position=0).mean("head")
    for layer in range(4):
        trace = drawn[f"layer {layer}"]
        np.testing.assert_allclose(trace.y, rates.isel(layer=layer).values, rtol=1e-6)
        assert trace.xaxis in (None, "x")
        assert trace.line.color == drawn[f"depth {layer + 1}"].line.color
    assert drawn["depth 0"].xaxis == "x2"
    assert any(name.endswith("fit") for name in drawn)
    assert fig.layout.xaxis.range == fig.layout.xaxis2.range
    assert fig.layout.xaxis2.ticktext == ("0", "1", "10", "100", "1k", "10k")


def test_a_scan_is_taken_for_its_dataset() -> None:
    dataset = scan_dataset()
    assert plots.emergence(SimpleNamespace(dataset=dataset)) == plots.emergence(dataset)


def test_a_missing_half_is_said_in_its_place() -> None:
    dataset = scan_dataset(attention="unavailable: <Falcon> has its own attention")
    fig = plots.emergence(dataset)
    text = " ".join(note.text.replace("<br>", " ") for note in fig.layout.annotations)
    assert "unavailable: &lt;Falcon&gt; has its own attention" in text
    assert {trace.name for trace in fig.data} == {f"depth {depth}" for depth in range(4)}
    sinks_only = scan_dataset().drop_vars(["top_activation", "median_activation"])
    assert {trace.name for trace in plots.emergence(sinks_only).data} == {f"layer {layer}" for layer in range(3)}


def test_neither_half_is_an_error() -> None:
    dataset = scan_dataset(attention="unavailable: no").drop_vars(["top_activation", "massive_ratio"])
    with pytest.raises(OntogenyError, match=r"no `sink_rate` .* no `top_activation`"):
        plots.emergence(dataset)


def test_a_single_checkpoint_is_drawn_over_layers() -> None:
    dataset = scan_dataset((-1,), layers=6, heads=2)
    fig = plots.emergence(dataset)
    assert [trace.type for trace in fig.data] == ["bar", "scatter"]
    assert fig.data[0].x.tolist() == list(range(6))
    assert fig.data[1].x.tolist() == list(range(7))
    assert "main" in fig.layout.title.subtitle.text


@pytest.mark.parametrize("name", ["emergence", "massive_ratio", "massive_sites", "sink_heads", "sink_rate"])
def test_every_figure_wears_the_theme(name: str) -> None:
    fig = getattr(plots, name)(scan_dataset())
    assert isinstance(fig, go.Figure)
    assert fig.layout.template == TEMPLATE
    assert fig.layout.title.text
    assert "sendChartToCloud" in fig.layout.template.layout.modebar.remove


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb in linear light, 0..1."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scale", [DEPTH_SCALE, SHARE_SCALE[::-1]])
def test_scales_keep_their_order_in_grey(scale: tuple[str, ...]) -> None:
    lightness = [116 * luminance(colour) ** (1 / 3) - 16 for colour in scale]
    steps = np.diff(lightness)
    assert (steps > 3).all()
    assert steps.max() < 4 * steps.min()


def test_a_layer_has_the_colour_of_the_depth_it_writes() -> None:
    assert layer_colours(5) == depth_colours(6)[1:]
    assert len(set(depth_colours(33))) == 33
