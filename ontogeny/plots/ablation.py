"""The figure of what sinks, waivers and massive activations do: the loss without them."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import HasDataset
from ontogeny.plots.axes import StepAxis, checkpoint_labels, log_axis, step_axis
from ontogeny.plots.measurements import dataset_of, require, short_name, shorten
from ontogeny.plots.theme import DASHES, INK, MUTED, depth_colours, escape, figure

_SPAN = 4  # largest over smallest loss from which on the axis is logarithmic
_LABEL = 40
_LEGEND_ROW = 22  # px
_INTACT = "unchanged"


def loss(scan: xr.Dataset | HasDataset) -> go.Figure:
    """Loss in nats over step, of the model as it is and under each intervention; bars for a single checkpoint.

    The axis is logarithmic where losses differ fourfold. Raises OntogenyError where it was not measured.
    """
    dataset = dataset_of(scan)
    require(dataset, "the loss under interventions", "loss", "loss_ablated")
    intact = dataset["loss"].values
    ablated = dataset["loss_ablated"].transpose("intervention", "checkpoint")
    names = [str(name) for name in ablated["intervention"].values]
    rows = -(-(len(names) + 1) // 2)
    fig = figure("Loss under interventions", short_name(dataset), height=400 + _LEGEND_ROW * rows)
    if intact.size == 1:
        return _bars(fig, dataset, names, ablated.values[:, 0])
    axis = step_axis(dataset)
    hover = "%{text}<br>loss %{y:.4f} nats<extra></extra>"
    _line(fig, axis, intact, _INTACT, f"{_INTACT}, {hover}", {"color": INK, "width": 2.5})
    colours = depth_colours(len(names) + 1)[1:]
    for i, (name, values, change) in enumerate(zip(names, ablated.values, _changes(dataset), strict=True)):
        text = f"{escape(name)}, %{{text}}<br>loss %{{y:.4f}} nats<br>change %{{customdata}}<extra></extra>"
        style = {"color": colours[i], "width": 1.75, "dash": DASHES[i % len(DASHES)]}
        _line(fig, axis, values, name, text, style, customdata=change)
    every = np.concatenate([intact[None], ablated.values])
    positive = every[np.isfinite(every) & (every > 0)]
    log = positive.size > 0 and positive.max() > _SPAN * positive.min()
    fig.update_xaxes(**axis.layout())
    fig.update_yaxes(title_text="loss (nats)", **(log_axis(every) if log else {}))
    return fig.update_layout(margin_t=fig.layout.margin.t + _LEGEND_ROW * max(rows - 2, 0))


def _changes(dataset: xr.Dataset) -> list[list[str]]:
    """What each intervention changes at each checkpoint, in words, with its error where that was measured."""
    change = (dataset["loss_ablated"] - dataset["loss"]).transpose("intervention", "checkpoint")
    if "loss_change_error" not in dataset:
        return [[f"{value:+.4f}" for value in row] for row in change.values]
    errors = dataset["loss_change_error"].transpose("intervention", "checkpoint").values
    pairs = zip(change.values, errors, strict=True)
    return [[f"{value:+.4f} ± {error:.4f}" for value, error in zip(*rows, strict=True)] for rows in pairs]


def _line(
    fig: go.Figure,
    axis: StepAxis,
    values: np.ndarray,
    name: str,
    hover: str,
    line: dict[str, object],
    **more: object,
) -> None:
    fig.add_scatter(
        x=axis.positions,
        y=values.astype(np.float32),
        name=escape(shorten(name, _LABEL)),
        mode="lines+markers",
        line=line,
        marker={"size": 5},
        text=axis.names,
        hovertemplate=hover,
        **more,
    )


def _bars(fig: go.Figure, dataset: xr.Dataset, names: list[str], ablated: np.ndarray) -> go.Figure:
    labels = [escape(shorten(name, _LABEL)) for name in (_INTACT, *names)]
    changes = ["", *[f"<br>change {row[0]}" for row in _changes(dataset)]]
    fig.add_bar(
        x=np.concatenate([dataset["loss"].values, ablated]),
        y=labels,
        orientation="h",
        marker={"color": [INK, *[MUTED] * len(names)]},
        customdata=changes,
        hovertemplate="%{y}<br>loss %{x:.4f} nats%{customdata}<extra></extra>",
    )
    fig.update_xaxes(title_text=f"loss (nats), {escape(checkpoint_labels(dataset)[0])}")
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig.update_layout(margin_t=fig.layout.margin.t // 2, height=200 + 28 * len(labels))
