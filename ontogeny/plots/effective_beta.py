"""The figure of effective betas: how steeply heads attend by likeness, and what the model system makes of that."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import SELECTIONS, HasDataset
from ontogeny.errors import UsageError
from ontogeny.fitting import predict_mean_cosine
from ontogeny.plots.axes import checkpoint_labels, whole_numbers
from ontogeny.plots.key import add_share_key
from ontogeny.plots.measurements import dataset_of, require, short_name
from ontogeny.plots.metastability import SELECTED
from ontogeny.plots.theme import ACCENT, MUTED, PANEL_TITLE, RULE, SHARE_SCALE, colorscale, escape, figure

_HEIGHT = 600  # px
_SPACING = 0.16
_PREDICTED = {
    "predicted_next_mean_cosine": ("predicted one block ahead", "dot"),
    "predicted_mean_cosine": ("predicted from depth 0 on", "dash"),
}


def effective_beta(scan: xr.Dataset | HasDataset, selection: str = "without_sinks", checkpoint: int = -1) -> go.Figure:
    """The slope of logits on inner products, a dot a head over layers, by how much it explains; and the mean cosine.

    Below, where the scan has the probe `clusters` too, the measured mean cosine over depth and what the self-attention
    model predicts of it (arXiv 2312.10794): exploratory, see `ontogeny.predict_mean_cosine`. `selection` is "all" or
    "without_sinks"; `checkpoint` counts in the order of steps, the last unless it says otherwise. Raises OntogenyError
    where effective betas were not measured, UsageError for another selection or checkpoint.
    """
    dataset = dataset_of(scan)
    require(dataset, "the effective beta", "effective_beta", "effective_beta_r2")
    if selection not in SELECTIONS:
        raise UsageError(f"expected the selection {' or '.join(SELECTIONS)}, got {selection!r}")
    count = dataset.sizes["checkpoint"]
    if not -count <= checkpoint < count:
        raise UsageError(f"expected a checkpoint from 0 to {count - 1}, got {checkpoint}")
    one = dataset.isel(checkpoint=checkpoint)
    words = f"{short_name(dataset)}, {SELECTED[selection]}, {checkpoint_labels(dataset)[checkpoint]}; exploratory"
    panels = ["effective β of each head, by layer"] + ["mean cosine"] * ("mean_cosine" in dataset)
    fig = figure("Effective beta", words, _HEIGHT if len(panels) > 1 else _HEIGHT * 3 // 5, panels, _SPACING)
    _add_heads(fig, one.sel(selection=selection))
    add_share_key(fig, "r², share of the logits' variance within rows that the slope explains", lift=PANEL_TITLE)
    fig.update_layout(margin_t=fig.layout.margin.t + PANEL_TITLE)
    if "mean_cosine" in dataset:
        _add_cosines(fig, one, selection)
    return fig


def _add_heads(fig: go.Figure, dataset: xr.Dataset) -> None:
    slopes = dataset["effective_beta"].transpose("layer", "head").values
    layers, heads = np.indices(slopes.shape)
    shares = dataset["effective_beta_r2"].transpose("layer", "head").values
    fig.add_scatter(
        x=layers.ravel(),
        y=slopes.ravel(),
        mode="markers",
        showlegend=False,
        marker={
            "size": 8,
            "color": shares.ravel(),
            "cmin": 0,
            "cmax": 1,
            "colorscale": colorscale(SHARE_SCALE),
            "line": {"color": MUTED, "width": 0.75},
        },
        customdata=np.stack([heads.ravel(), shares.ravel()], axis=-1),
        hovertemplate="layer %{x}, head %{customdata[0]}<br>β %{y:.3g}, r² %{customdata[1]:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    fig.update_xaxes(**whole_numbers(len(slopes)), row=1, col=1)
    fig.update_yaxes(zeroline=True, zerolinecolor=RULE, row=1, col=1)


def _add_cosines(fig: go.Figure, dataset: xr.Dataset, selection: str) -> None:
    predicted = predict_mean_cosine(dataset).sel(selection=selection)
    measured = dataset["mean_cosine"].sel(selection=selection)
    lines = {"measured": (measured, {"color": ACCENT, "width": 2.25})}
    lines |= {
        name: (predicted[variable], {"color": MUTED, "width": 1.75, "dash": dash})
        for variable, (name, dash) in _PREDICTED.items()
    }
    for name, (values, line) in lines.items():
        fig.add_scatter(
            x=values["depth"].values,
            y=values.values,
            name=name,
            mode="lines",
            line=line,
            hovertemplate=f"depth %{{x}}, {escape(name)}<br>mean cosine %{{y:.3f}}<extra></extra>",
            row=2,
            col=1,
        )
    fig.update_xaxes(title_text="depth", **whole_numbers(measured.sizes["depth"]), row=2, col=1)
    fig.update_xaxes(range=[-0.6, measured.sizes["depth"] - 0.4])
    fig.update_yaxes(range=[min(0.0, float(measured.min())) - 0.02, 1.04], row=2, col=1)
    fig.update_layout(legend={"y": fig.layout.yaxis2.domain[1], "yanchor": "bottom", "x": 0.16})
