"""The panel of waivers: its points are the dataset's, and its corner is where a key is a waiver."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from ontogeny import plots
from ontogeny.errors import OntogenyError
from ontogeny.plots.waivers import PATHS_AT_MOST
from tests.synthetic import POCKET_STEPS, PYTHIA_STEPS, scan_dataset, with_waivers


def scanned(layers: int = 12, heads: int = 12, steps: tuple[int, ...] = PYTHIA_STEPS):
    return with_waivers(scan_dataset(steps, layers=layers, heads=heads, sequences=4, width=heads * 8))


def at_first(dataset, name: str, layer: int, head: int) -> np.ndarray:
    return dataset[name].sel(position=0, layer=layer, head=head).transpose("checkpoint").values


def paths_of(fig: go.Figure) -> list[go.Scatter]:
    return [trace for trace in fig.data if trace.mode == "lines+markers"]


def place_of(path: go.Scatter) -> tuple[int, int]:
    _, layer, _, head = path.name.split()
    return int(layer), int(head)


def test_a_way_is_the_score_and_the_value_norm_of_one_head_at_every_step() -> None:
    dataset = scanned(layers=3, heads=2, steps=POCKET_STEPS)
    fig = plots.waivers(dataset)
    assert isinstance(fig, go.Figure)
    assert {place_of(path) for path in paths_of(fig)} == set(np.ndindex(3, 2))
    for path in paths_of(fig):
        place = place_of(path)
        np.testing.assert_allclose(path.x, at_first(dataset, "sink_score", *place), rtol=1e-6)
        np.testing.assert_allclose(path.y, at_first(dataset, "value_norm", *place), rtol=1e-6)
        np.testing.assert_allclose(path.customdata[:, 0], at_first(dataset, "waiver_rate", *place), rtol=1e-6)
        np.testing.assert_allclose(path.customdata[:, 1], at_first(dataset, "update_norm", *place), rtol=1e-6)
        np.testing.assert_allclose(path.marker.color, np.log10(1 + np.array(POCKET_STEPS)))
        assert path.text == tuple(f"step {step:,}" for step in POCKET_STEPS)
        assert f"layer {place[0]}, head {place[1]}, %{{text}}" in path.hovertemplate
    assert (fig.layout.yaxis.type, fig.layout.xaxis.type) == ("log", None)


@pytest.mark.parametrize(("layers", "heads"), [(12, 12), (32, 32)])
def test_of_many_heads_all_are_points_and_the_strongest_waivers_have_ways(layers: int, heads: int) -> None:
    dataset = scanned(layers, heads)
    fig = plots.waivers(dataset)
    places = [place_of(path) for path in paths_of(fig)]
    last = dataset.isel(checkpoint=-1, position=0)
    rate, score = (last[name].transpose("layer", "head").values for name in ("waiver_rate", "sink_score"))
    ranked = sorted(np.ndindex(layers, heads), key=lambda place: (rate[place], score[place]))
    assert places == ranked[-PATHS_AT_MOST:]
    cloud = fig.data[0]
    assert {tuple(row[2:].astype(int)) for row in cloud.customdata} == set(np.ndindex(layers, heads)) - set(places)
    for x, y, row in zip(cloud.x, cloud.y, cloud.customdata, strict=True):
        place = tuple(row[2:].astype(int))
        assert x == score[place] and y == last["value_norm"].transpose("layer", "head").values[place]
    assert len(fig.to_json()) < 200_000


def test_the_ends_of_the_ways_are_named() -> None:
    dataset = scanned()
    fig = plots.waivers(dataset)
    paths, names = paths_of(fig), fig.data[-1]
    assert names.text == tuple("{}.{}".format(*place_of(path)) for path in paths)
    np.testing.assert_array_equal(names.x, [path.x[-1] for path in paths])
    np.testing.assert_array_equal(names.y, [path.y[-1] for path in paths])


def test_names_of_near_ends_stand_on_different_sides() -> None:
    dataset = scanned(layers=2, heads=1)
    dataset["sink_score"].loc[{"position": 0}] = 0.8
    dataset["value_norm"].loc[{"position": 0, "layer": 0}] = 0.1
    dataset["value_norm"].loc[{"position": 0, "layer": 1}] = 0.2
    sides = dict(zip(plots.waivers(dataset).data[-1].text, plots.waivers(dataset).data[-1].textposition, strict=True))
    assert sides == {"0.0": "bottom center", "1.0": "top center"}


def test_the_corner_is_where_the_dataset_calls_a_key_a_waiver() -> None:
    for attrs, (epsilon, bound) in [({}, (0.3, 0.2)), ({"waiver_epsilon": 0.4, "waiver_value": 0.1}, (0.4, 0.1))]:
        fig = plots.waivers(scanned().assign_attrs(attrs))
        corner = next(shape for shape in fig.layout.shapes if shape.label.text)
        assert (corner.x0, corner.y1) == (epsilon, bound)
        assert corner.label.text == f"waiver<br>score > {epsilon}<br>norm < {bound}"
        assert corner.x1 == fig.layout.xaxis.range[1]
        assert np.log10(corner.y0) == pytest.approx(fig.layout.yaxis.range[0])
        values = np.concatenate([trace.y for trace in fig.data])
        low, high = (10**end for end in fig.layout.yaxis.range)
        assert low < values.min() and values.max() < high


def test_without_the_norm_behind_the_projection_the_hover_leaves_it_out() -> None:
    dataset = scanned()
    assert all("behind the output projection" in path.hovertemplate for path in paths_of(plots.waivers(dataset)))
    without = plots.waivers(dataset.drop_vars("update_norm"))
    for trace in without.data[:-1]:
        assert "projection" not in trace.hovertemplate
    cloud = without.data[0]
    assert "layer %{customdata[1]}, head %{customdata[2]}" in cloud.hovertemplate
    assert cloud.customdata.shape[1] == 3


def test_heads_without_numbers_have_no_way() -> None:
    dataset = scanned(layers=3, heads=2)
    dataset["sink_score"].loc[{"layer": 1}] = np.nan
    dataset["value_norm"].loc[{"layer": 1}] = np.nan
    dataset["waiver_rate"].loc[{"layer": 1}] = np.nan
    fig = plots.waivers(dataset)
    assert {place_of(path)[0] for path in paths_of(fig)} == {0, 2}


def test_a_single_checkpoint_is_its_heads() -> None:
    dataset = scanned(5, 3, steps=(-1,))
    fig = plots.waivers(dataset)
    (heads,) = fig.data
    last = dataset.isel(checkpoint=0, position=0)
    np.testing.assert_array_equal(heads.x, last["sink_score"].transpose("layer", "head").values.ravel())
    np.testing.assert_array_equal(heads.y, last["value_norm"].transpose("layer", "head").values.ravel())
    assert [tuple(row[2:].astype(int)) for row in heads.customdata] == list(np.ndindex(5, 3))
    assert len(set(heads.marker.color)) == 5 and heads.marker.color[0] == heads.marker.color[2]
    assert "main" in heads.hovertemplate


def test_checkpoints_of_unknown_steps_are_in_their_order() -> None:
    fig = plots.waivers(scanned(2, 1, steps=(-1, -1, -1)))
    np.testing.assert_array_equal(paths_of(fig)[0].marker.color, [0, 1, 2])
    assert {"first", "last", "checkpoint"} <= {note.text for note in fig.layout.annotations}


@pytest.mark.parametrize(
    ("name", "probe"), [("value_norm", "waivers"), ("waiver_rate", "waivers"), ("sink_score", "sinks")]
)
def test_what_is_missing_is_named_with_its_probe(name: str, probe: str) -> None:
    with pytest.raises(OntogenyError, match=rf"no `{name}`; scan again with the probe `{probe}`"):
        plots.waivers(scanned().drop_vars(name))


def test_without_attention_the_reason_is_given() -> None:
    with pytest.raises(OntogenyError, match=r"no `sink_score` \(attention unavailable: this model has none"):
        plots.waivers(scan_dataset(attention="unavailable: this model has none"))


def test_text_from_the_data_is_escaped() -> None:
    dataset = scanned(8, 2, steps=(-1, -1)).assign_attrs(series="<a href='x'>name</a>")
    fig = plots.waivers(dataset.assign_coords(checkpoint=np.array(["<i>one", "<b>two"], dtype=object)))
    assert fig.layout.title.subtitle.text.startswith("&lt;a href='x'&gt;name&lt;/a&gt;")
    assert paths_of(fig)[0].text == ("&lt;i&gt;one", "&lt;b&gt;two")
    assert "&lt;b&gt;two" in fig.data[0].hovertemplate and "<b>" not in fig.data[0].hovertemplate
