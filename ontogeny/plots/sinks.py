"""Figures of attention sinks: by layer and by head, over training."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import HasDataset
from ontogeny.plots.axes import StepAxis, checkpoint_labels, step_axis, whole_numbers
from ontogeny.plots.key import add_share_key
from ontogeny.plots.measurements import EPSILON, POSITION, dataset_of, short_name, sink_rates
from ontogeny.plots.theme import (
    DASHES,
    PAPER,
    SHARE_SCALE,
    TITLE_SPACE,
    colorscale,
    escape,
    figure,
    layer_colours,
)

_LINES_AT_MOST = 8
_ROWS_NAMED_AT_MOST = 40
MEAN_RATE = "sink rate (mean of heads)"
_RATE = "share of sequences"


def sink_rate(scan: xr.Dataset | HasDataset, epsilon: float = EPSILON, position: int = POSITION) -> go.Figure:
    """Heat map of the sink rate over step x layer, heads averaged; for a single checkpoint, bars by layer.

    The share of sequences, 0..1, in which the key at `position` has sink score above `epsilon` (arXiv 2410.10781).
    Raises OntogenyError where it was not measured.
    """
    dataset = dataset_of(scan)
    rates = sink_rates(dataset, epsilon, position).mean("head")
    layers = rates["layer"].values
    fig = figure("Sink rate by layer", _subtitle(dataset, epsilon, position), height=max(360, 200 + 12 * layers.size))
    if rates.sizes["checkpoint"] == 1:
        add_sink_bars(fig, rates.isel(checkpoint=0))
        fig.update_xaxes(title_text=f"layer (the one checkpoint: {escape(checkpoint_labels(dataset)[0])})")
        fig.update_layout(margin_t=TITLE_SPACE + 24)
        return fig
    axis = step_axis(dataset)
    _cells(fig, axis, layers, rates.values.T, layers[:, None], "layer %{customdata[0]}")
    add_share_key(fig, MEAN_RATE)
    fig.update_yaxes(title_text="layer", **whole_numbers(layers.size))
    return fig


def sink_heads(scan: xr.Dataset | HasDataset, epsilon: float = EPSILON, position: int = POSITION) -> go.Figure:
    """The sink rate of every head over step: lines where heads are few, else one heat-map row a head.

    Rows are grouped by layer; where they are too many to be named, each layer's heads are sorted by their last rate.
    For a single checkpoint, a heat map of layer x head. Raises OntogenyError where it was not measured.
    """
    dataset = dataset_of(scan)
    rates = sink_rates(dataset, epsilon, position)
    subtitle = _subtitle(dataset, epsilon, position)
    if rates.sizes["checkpoint"] == 1:
        return _layers_by_heads(dataset, rates.isel(checkpoint=0), subtitle)
    axis = step_axis(dataset)
    if rates.sizes["layer"] * rates.sizes["head"] <= _LINES_AT_MOST:
        return _head_lines(axis, rates, subtitle)
    return _head_rows(axis, rates, subtitle)


def _subtitle(dataset: xr.Dataset, epsilon: float, position: int) -> str:
    return f"{short_name(dataset)}, key position {position}, ε = {epsilon:g}"


def _cells(
    fig: go.Figure, axis: StepAxis, rows: np.ndarray, values: np.ndarray, labels: np.ndarray, hover: str
) -> None:
    """Add a heat map of `values` (row, checkpoint) in 0..1; `labels` (row, k) are the numbers that `hover` names."""
    fig.add_heatmap(
        x=axis.edges,
        y=rows,
        z=values.astype(np.float32),
        zmin=0,
        zmax=1,
        text=np.tile(np.array(axis.names, dtype=object), (values.shape[0], 1)),
        customdata=np.repeat(labels.astype(np.int16)[:, None], values.shape[1], axis=1),
        colorscale=colorscale(SHARE_SCALE),
        showscale=False,
        hovertemplate=f"{hover}, %{{text}}<br>sink rate %{{z:.3f}}<extra></extra>",
    )
    fig.update_xaxes(**axis.layout(cells=True))


def add_sink_bars(fig: go.Figure, rates: xr.DataArray, **where: object) -> None:
    """Add the sink rate (layer) of one checkpoint as bars over layers, and both axes."""
    layers = rates["layer"].values
    fig.add_bar(
        x=layers,
        y=rates.values,
        name="sink rate",
        showlegend=False,
        marker={"color": layer_colours(layers.size)},
        hovertemplate="layer %{x}<br>sink rate %{y:.3f}<extra></extra>",
        **where,
    )
    fig.update_xaxes(title_text="layer", **whole_numbers(layers.size), **where)
    fig.update_yaxes(title_text=MEAN_RATE, range=[0, 1.02], **where)


def _layers_by_heads(dataset: xr.Dataset, rates: xr.DataArray, subtitle: str) -> go.Figure:
    layers, heads = rates["layer"].values, rates["head"].values
    name = escape(checkpoint_labels(dataset)[0])
    fig = figure("Sink rate by head", subtitle, height=max(360, 200 + 14 * layers.size))
    fig.add_heatmap(
        x=heads,
        y=layers,
        z=rates.values,
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        colorscale=colorscale(SHARE_SCALE),
        showscale=False,
        hovertemplate=f"layer %{{y}}, head %{{x}}, {name}<br>sink rate %{{z:.3f}}<extra></extra>",
    )
    add_share_key(fig, _RATE)
    fig.update_xaxes(title_text=f"head (the one checkpoint: {name})", **whole_numbers(heads.size))
    fig.update_yaxes(title_text="layer", **whole_numbers(layers.size))
    return fig


def _head_lines(axis: StepAxis, rates: xr.DataArray, subtitle: str) -> go.Figure:
    fig = figure("Sink rate by head", subtitle, height=400)
    colours = layer_colours(rates.sizes["layer"])
    for i, layer in enumerate(rates["layer"].values):
        for j, head in enumerate(rates["head"].values):
            name = f"layer {layer}" if rates.sizes["head"] == 1 else f"layer {layer} head {head}"
            fig.add_scatter(
                x=axis.positions,
                y=rates.values[:, i, j],
                name=name,
                mode="lines+markers",
                line={"color": colours[i], "width": 2, "dash": DASHES[j % len(DASHES)]},
                marker={"size": 6, "line": {"color": PAPER, "width": 1}},
                text=axis.names,
                hovertemplate=f"{name}, %{{text}}<br>sink rate %{{y:.3f}}<extra></extra>",
            )
    fig.update_xaxes(**axis.layout())
    fig.update_yaxes(title_text=f"sink rate ({_RATE})", range=[-0.02, 1.02])
    return fig


def _head_rows(axis: StepAxis, rates: xr.DataArray, subtitle: str) -> go.Figure:
    layers, heads = rates["layer"].values, rates["head"].values
    count = layers.size * heads.size
    named = count <= _ROWS_NAMED_AT_MOST
    order = np.tile(np.arange(heads.size), (layers.size, 1)) if named else np.argsort(rates.values[-1], axis=1)
    values = np.take_along_axis(rates.values, order[None], axis=2).reshape(len(axis.positions), count).T
    labels = [(layer, heads[j]) for layer, places in zip(layers, order, strict=True) for j in places]
    fig = figure("Sink rate by head", subtitle, height=int(np.clip(200 + 4.8 * count, 440, 1100)))
    _cells(fig, axis, np.arange(count), values, np.array(labels), "layer %{customdata[0]}, head %{customdata[1]}")
    add_share_key(fig, _RATE)
    if named:
        ticks, text = [float(row) for row in range(count)], [f"{layer}.{head}" for layer, head in labels]
        title = "layer.head"
    else:
        shown = range(0, layers.size, -(-layers.size // 16))
        ticks = [i * heads.size + (heads.size - 1) / 2 for i in shown]
        text = [str(layers[i]) for i in shown]
        title = "layer (within it, heads by their last rate)"
    fig.update_yaxes(title_text=title, tickmode="array", tickvals=ticks, ticktext=text, showgrid=False)
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"color": PAPER, "width": 1.5}}
    borders = [line | {"y0": i - 0.5, "y1": i - 0.5} for i in range(heads.size, count, heads.size)]
    fig.update_layout(shapes=[*fig.layout.shapes, *borders])
    return fig
