"""Curves to expect of an architecture, with the band of one of them."""

from __future__ import annotations

import json

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.errors import UsageError
from ontogeny.plots.axes import choose_ticks, format_step, place
from ontogeny.plots.key import add_depth_key
from ontogeny.plots.theme import MUTED, escape, figure, layer_colours

_BAND = "rgba(93, 100, 112, 0.14)"


def predicted(prediction: xr.Dataset) -> go.Figure:
    """Predicted curves over steps, one a layer in its colour; the band is that of the layer that is foretold highest.

    `prediction` is what `ontogeny.predict` gives. The axis of steps is logarithmic and has 0 on it. Raises
    UsageError for another dataset.
    """
    if "predicted" not in prediction or "predicted_low" not in prediction:
        raise UsageError("expected the dataset that ontogeny.predict gives, with `predicted` and its interval")
    arch = json.loads(prediction.attrs["arch"])
    highest = int(prediction["predicted"].values.max(axis=1).argmax())
    banded = int(prediction["layer"].values[highest])
    shape = f"{arch['layers']} layers, width {arch['width']}, {arch['heads']} heads"
    fig = figure(
        f"Predicted {prediction.attrs['metric'].replace('_', ' ')}",
        f"{shape}; predictor: {prediction.attrs['predictor']}; {prediction.attrs['level']:.0%} band of layer {banded}",
        460,
    )
    x = place(prediction["step"].values)
    _add_band(fig, x, prediction.isel(depth=highest))
    colours = layer_colours(arch["layers"])
    names = [f"step {step:,.0f}" for step in prediction["step"].values]
    for layer, values in zip(prediction["layer"].values, prediction["predicted"].values, strict=True):
        fig.add_scatter(
            x=x,
            y=values,
            name=f"layer {layer}",
            mode="lines",
            line={"color": colours[layer], "width": 1.75},
            text=names,
            hovertemplate=f"layer {layer}, %{{text}}<br>%{{y:.4g}}<extra></extra>",
        )
    fig.update_traces(showlegend=False)
    add_depth_key(fig, "depth (layer i writes depth i + 1)", arch["layers"] + 1)
    ticks = choose_ticks(0, int(prediction["step"].values[-1]))
    fig.update_xaxes(
        tickvals=[float(place(step)) for step in ticks],
        ticktext=[format_step(step) for step in ticks],
        showgrid=False,
        title_text="training step (log scale)",
    )
    fig.update_yaxes(title_text=escape(prediction["predicted"].attrs["long_name"]))
    if prediction.attrs["warning"]:
        _add_warning(fig)
    return fig


def _add_band(fig: go.Figure, x: np.ndarray, one: xr.Dataset) -> None:
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fig.add_scatter(x=x, y=one["predicted_high"].values, name="band, upper end", **edge)
    fig.add_scatter(x=x, y=one["predicted_low"].values, name="band, lower end", fill="tonexty", fillcolor=_BAND, **edge)


def _add_warning(fig: go.Figure) -> None:
    fig.add_annotation(
        text="unlike the training models (see `warning`)",
        xref="paper",
        yref="paper",
        x=0.01,
        y=0.99,
        xanchor="left",
        yanchor="top",
        showarrow=False,
        font={"color": MUTED, "size": 12},
    )
