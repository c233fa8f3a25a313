"""The figure of the order of events: sink, drained value and massive activation of each layer on the axis of steps."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import HasDataset, sound_checkpoints
from ontogeny.errors import OntogenyError
from ontogeny.fitting import events as find_events
from ontogeny.plots.axes import place, step_axis, whole_numbers
from ontogeny.plots.measurements import dataset_of, short_name
from ontogeny.plots.theme import DEPTH_SCALE, KEY_SPACE, SHARE_SCALE, TITLE_SPACE, figure

_MARKERS = {
    "sink": ("circle", DEPTH_SCALE[1]),
    "drain": ("square", DEPTH_SCALE[3]),
    "massive": ("diamond", SHARE_SCALE[3]),
}
_APART = 0.22  # of the distance between layers
_ROW = 44  # px


def events(scan: xr.Dataset | HasDataset, found: xr.Dataset | None = None) -> go.Figure:
    """Step and interval of each layer's sink, drained value and massive activation; `found` from `ontogeny.events`.

    Without `found` they are looked for. An event whose interval is open has no bar. Raises OntogenyError where there
    is none to draw, or two checkpoints state the same step.
    """
    dataset = dataset_of(scan)
    found = find_events(dataset) if found is None else found
    if not (found["verdict"] == "found").any():
        verdicts = ", ".join(sorted(set(map(str, found["verdict"].values.ravel()))))
        raise OntogenyError(
            f"there is no event to draw: expected one that was found in some layer, they are {verdicts}"
        )
    used = sound_checkpoints(dataset) & (dataset["step"].values >= 0)
    axis = step_axis(dataset.isel(checkpoint=np.flatnonzero(used)))
    if axis.steps is None:
        raise OntogenyError("the events cannot be drawn: expected a step of its own for every checkpoint")
    layers = found["layer"].values
    height = max(320, TITLE_SPACE + KEY_SPACE + 60 + _ROW * layers.size)
    fig = figure("Order of events", f"{short_name(dataset)}; half way for good, with interval", height)
    for row, name in enumerate(found["event"].values):
        _add_event(fig, found.sel(event=name), str(name), _APART * (row - 1))
    fig.update_xaxes(**axis.layout())
    fig.update_yaxes(title_text="layer", range=[layers.max() + 0.5, layers.min() - 0.5], **whole_numbers(layers.size))
    return fig


def _add_event(fig: go.Figure, event: xr.Dataset, name: str, shift: float) -> None:
    here = event.isel(layer=np.flatnonzero(event["verdict"].values == "found"))
    step, low, high = (here[part].values for part in ("step", "step_low", "step_high"))
    symbol, colour = _MARKERS[name]
    fig.add_scatter(
        x=place(step),
        y=here["layer"].values + shift,
        name=name,
        mode="markers",
        marker={"symbol": symbol, "color": colour, "size": 9},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(place(high) - place(step)),
            "arrayminus": np.nan_to_num(place(step) - place(low)),
            "color": colour,
            "thickness": 1.5,
            "width": 3,
        },
        text=[
            f"layer {layer}, {name}<br>step {at:,.0f}, " + (f"{least:,.0f} to {most:,.0f}" if least >= 0 else "open")
            for layer, at, least, most in zip(here["layer"].values, step, low, high, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
    )
