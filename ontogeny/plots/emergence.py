"""The one picture: sinks and massive activations emerging over the same steps."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import RATIO_OF_MEANS, HasDataset
from ontogeny.errors import OntogenyError
from ontogeny.plots.axes import StepAxis, checkpoint_labels, step_axis
from ontogeny.plots.key import add_depth_key
from ontogeny.plots.massive import add_ratio_lines, add_ratio_profile, refuse_other_fits
from ontogeny.plots.measurements import (
    EPSILON,
    POSITION,
    dataset_of,
    massive_ratios,
    short_name,
    sink_rates,
)
from ontogeny.plots.sinks import MEAN_RATE, add_sink_bars
from ontogeny.plots.theme import MUTED, escape, figure, layer_colours

_WRAP = 44


def emergence(scan_or_dataset: xr.Dataset | HasDataset, fits: xr.Dataset | None = None) -> go.Figure:
    """Sink rate by layer above, massive ratio by depth below, over the same steps, with fitted curves where given.

    Sink rate: share of sequences with score above 0.3 at position 0, mean over heads (arXiv 2410.10781); ratio:
    max|h| / median|h| (arXiv 2508.03616). What was not measured is said in its panel. A single checkpoint gives both
    over layers. Raises OntogenyError where neither was measured.
    """
    dataset = dataset_of(scan_or_dataset)
    refuse_other_fits(fits)
    sinks, no_sinks = _or_reason(lambda: sink_rates(dataset).mean("head"))
    ratios, no_ratios = _or_reason(lambda: massive_ratios(dataset))
    if sinks is None and ratios is None:
        raise OntogenyError(f"{no_sinks}; and {no_ratios}")
    axis = step_axis(dataset)
    single = axis.positions.size == 1
    fig = _panels(dataset)
    if sinks is None:
        _say(fig, no_sinks, row=1)
    elif single:
        add_sink_bars(fig, sinks.isel(checkpoint=0), row=1, col=1)
    else:
        _add_sink_lines(fig, axis, sinks)
    if ratios is None:
        _say(fig, no_ratios, row=2)
    elif single:
        add_ratio_profile(fig, ratios.isel(checkpoint=0), row=2, col=1)
    else:
        add_ratio_lines(fig, axis, ratios, fits, row=2, col=1)
    if not single:
        depths = dataset.sizes["depth"] if "depth" in dataset.sizes else dataset.sizes["layer"] + 1
        fig.update_traces(showlegend=False)
        add_depth_key(fig, "depth (layer i writes depth i + 1)", depths)
        fig.update_xaxes(**axis.layout())
        fig.update_xaxes(title_text="", row=1, col=1)
    return fig


def _or_reason(read: Callable[[], xr.DataArray]) -> tuple[xr.DataArray | None, str]:
    try:
        return read(), ""
    except OntogenyError as error:
        return None, str(error)


def _panels(dataset: xr.Dataset) -> go.Figure:
    single = dataset.sizes["checkpoint"] == 1
    which = f", {checkpoint_labels(dataset)[0]}" if single else ""
    subtitle = f"{short_name(dataset)}{which}; sinks: key position {POSITION}, ε = {EPSILON:g}; ratio: {RATIO_OF_MEANS}"
    return figure(
        "Emergence of attention sinks and massive activations",
        subtitle,
        680,
        ["", ""],
        spacing=0.14 if single else 0.09,
    )


def _say(fig: go.Figure, reason: str, row: int) -> None:
    """Write, in an empty panel, why it is empty."""
    low, high = (fig.layout.yaxis if row == 1 else fig.layout.yaxis2).domain
    fig.add_annotation(
        text="<br>".join(escape(line) for line in textwrap.wrap(f"{reason[:1].upper()}{reason[1:]}.", _WRAP)),
        xref="paper",
        yref="paper",
        x=0.5,
        y=(low + high) / 2,
        yanchor="middle",
        showarrow=False,
        font={"color": MUTED},
    )
    fig.update_xaxes(visible=False, row=row, col=1)
    fig.update_yaxes(visible=False, row=row, col=1)


def _add_sink_lines(fig: go.Figure, axis: StepAxis, rates: xr.DataArray) -> None:
    layers = rates["layer"].values
    for layer, colour, values in zip(layers, layer_colours(layers.size), rates.values.T, strict=True):
        fig.add_scatter(
            x=axis.positions,
            y=values,
            name=f"layer {layer}",
            mode="lines+markers",
            line={"color": colour, "width": 1.75},
            marker={"size": 5},
            text=axis.names,
            hovertemplate=f"layer {layer}, %{{text}}<br>sink rate %{{y:.3f}}<extra></extra>",
            row=1,
            col=1,
        )
    fig.update_yaxes(title_text=MEAN_RATE, range=[-0.02, 1.02], row=1, col=1)
