"""Figures of metastability: clusters of tokens over depth and over training, beside what chance gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import SELECTIONS, HasDataset
from ontogeny.errors import UsageError
from ontogeny.plots.axes import StepAxis, checkpoint_labels, log_axis, step_axis, whole_numbers
from ontogeny.plots.key import add_share_key
from ontogeny.plots.measurements import dataset_of, pick, require, short_name, width_of
from ontogeny.plots.theme import (
    ACCENT,
    DEPTH_SCALE,
    KEY_SPACE,
    MUTED,
    PANEL_TITLE,
    SHARE_SCALE,
    TITLE_SPACE,
    colorscale,
    escape,
    figure,
    lift_legend,
)

SELECTED = dict(zip(SELECTIONS, ("all tokens", "without sink tokens"), strict=True))
THRESHOLD = 0.9
_ROW = 170  # px
_SPACING = 0.075
_BASELINES = {
    "": "measured",
    "_shuffled": "shuffled states",
    "_reordered": "reordered tokens",
    "_random": "random tokens",
}
_SAME_TOKENS = "_shuffled"  # the one baseline that is of the measured states' own tokens
_LINES = {
    "": {"color": ACCENT, "width": 2.25},
    "_shuffled": {"color": MUTED, "width": 1.75, "dash": "dot"},
    "_reordered": {"color": MUTED, "width": 1.75, "dash": "dash"},
    "_random": {"color": DEPTH_SCALE[1], "width": 1.75, "dash": "dash"},
}


@dataclass(frozen=True)
class _Sizes:
    """What bounds numbers: tokens counted and tokens paired (checkpoint, depth), and the width of their states."""

    tokens: np.ndarray
    paired: np.ndarray
    width: float


@dataclass(frozen=True)
class _Quantity:
    """A quantity over depth: `scaled` makes it a colour in 0..1 from its values and what they are bounded by."""

    name: str
    title: str
    colour_title: str
    scaled: Callable[[np.ndarray, _Sizes], np.ndarray]
    at_threshold: bool = False


def _over_log(values: np.ndarray, most: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(most > 1, values / np.log(most), np.nan)


def _share(values: np.ndarray, _sizes: _Sizes) -> np.ndarray:
    return values


def _log_count(values: np.ndarray, sizes: _Sizes) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _over_log(np.log(values), sizes.paired)


def _entropy(values: np.ndarray, sizes: _Sizes) -> np.ndarray:
    return _over_log(values, np.minimum(sizes.tokens, sizes.width))


_QUANTITIES = (
    _Quantity("cluster_count", "clusters of tokens", "log count / log n", _log_count, at_threshold=True),
    _Quantity("plateau_share", "share of sequences in a plateau", "plateau share", _share, at_threshold=True),
    _Quantity("mean_cosine", "mean cosine", "mean cosine", _share),
    _Quantity("matrix_entropy", "matrix entropy (nats)", "entropy / log min(n, d)", _entropy),
)


def metastability(scan: xr.Dataset | HasDataset, selection: str = "all", threshold: float = THRESHOLD) -> go.Figure:
    """Clusters, plateaus, mean cosine and matrix entropy over step x depth, beside what baselines give.

    Clusters are connected components of tokens whose states have a cosine above `threshold`; a plateau is a run of
    depths with a constant count, more than one and fewer than the tokens, whose members persist (arXiv 2410.06833).
    Colours go from 0 to 1: of n tokens counts as log count / log n (0 one cluster, 1 each token alone), matrix entropy
    (arXiv 2510.06477) over its bound log min(n, d), the others as they are. Each column has its own n; d is the width
    that the dataset's architecture states, or no bound without one. The columns to the right are the baselines: states
    with every dimension permuted over the tokens, and where they were measured the text's own tokens in random order,
    and random tokens. `selection` is "all" or "without_sinks". A single checkpoint gives profiles over depth.

    Raises OntogenyError where clusters were not measured, UsageError for another selection.
    """
    dataset = dataset_of(scan)
    require(dataset, "metastability", *(quantity.name for quantity in _QUANTITIES))
    if selection not in SELECTED:
        raise UsageError(f"expected the selection {' or '.join(SELECTIONS)}, got {selection!r}")
    chosen = dataset.sel(selection=selection)
    kinds = [kind for kind in _BASELINES if f"cluster_count{kind}" in dataset]
    words = f"{short_name(dataset)}, {SELECTED[selection]}, threshold {threshold:g}"
    if dataset.sizes["checkpoint"] == 1:
        return _profiles(chosen.isel(checkpoint=0), kinds, threshold, f"{words}, {checkpoint_labels(dataset)[0]}")
    width = width_of(dataset)
    sizes = {kind: _sizes(chosen, kind, width) for kind in kinds}
    return _maps(chosen, sizes, threshold, f"{words}; n tokens, width d" + (f" = {width}" if width else " not known"))


def _sizes(dataset: xr.Dataset, kind: str, width: int | None) -> _Sizes:
    names = [f"{name}{'' if kind == _SAME_TOKENS else kind}" for name in ("cluster_tokens", "paired_tokens")]
    require(dataset, "metastability", *names)
    tokens, paired = (dataset[name].transpose("checkpoint", "depth").values for name in names)
    return _Sizes(tokens, paired, width or np.inf)


def _values(dataset: xr.Dataset, quantity: _Quantity, kind: str, threshold: float) -> xr.DataArray | None:
    name = f"{quantity.name}{kind}"
    if name not in dataset:
        return None
    values = dataset[name].astype(np.float64)
    return pick(values, "threshold", threshold) if quantity.at_threshold else values


def _maps(dataset: xr.Dataset, sizes: dict[str, _Sizes], threshold: float, words: str) -> go.Figure:
    axis = step_axis(dataset)
    titles = [_BASELINES[kind] if kind else one.colour_title for one in _QUANTITIES for kind in sizes]
    height = TITLE_SPACE + KEY_SPACE + PANEL_TITLE + 60 + _ROW * len(_QUANTITIES)
    fig = figure("Metastability", words, height, titles, _SPACING, len(sizes))
    for row, quantity in enumerate(_QUANTITIES, start=1):
        for column, (kind, bounds) in enumerate(sizes.items(), start=1):
            values = _values(dataset, quantity, kind, threshold)
            if values is not None:
                _add_map(fig, axis, quantity, values.transpose("checkpoint", "depth"), bounds, row, column)
    add_share_key(fig, "value of each panel, 0 to 1", lift=PANEL_TITLE)
    fig.update_layout(margin_t=fig.layout.margin.t + PANEL_TITLE)
    depths = dataset.sizes["depth"]
    fig.update_xaxes(**axis.layout(cells=True))
    fig.update_xaxes(title_text="", showticklabels=False)
    fig.update_xaxes(showticklabels=True, row=len(_QUANTITIES))
    fig.update_xaxes(title=axis.layout()["title"], row=len(_QUANTITIES), col=1)
    fig.update_yaxes(**whole_numbers(depths))
    fig.update_yaxes(title_text="depth", col=1)
    return fig


def _add_map(
    fig: go.Figure, axis: StepAxis, quantity: _Quantity, values: xr.DataArray, sizes: _Sizes, row: int, col: int
) -> None:
    depths = values["depth"].values
    fig.add_heatmap(
        x=axis.edges,
        y=depths,
        z=quantity.scaled(values.values, sizes).T.astype(np.float32),
        zmin=0,
        zmax=1,
        customdata=values.values.T.astype(np.float32),
        text=np.tile(np.array(axis.names, dtype=object), (depths.size, 1)),
        colorscale=colorscale(SHARE_SCALE),
        showscale=False,
        hovertemplate=f"depth %{{y}}, %{{text}}<br>{quantity.title} %{{customdata:.3g}}<extra></extra>",
        row=row,
        col=col,
    )


def _profiles(dataset: xr.Dataset, kinds: list[str], threshold: float, words: str) -> go.Figure:
    titles = [quantity.title for quantity in _QUANTITIES]
    height = TITLE_SPACE + KEY_SPACE + 60 + _ROW * len(_QUANTITIES)
    fig = figure("Metastability", words, height, titles, _SPACING)
    for row, quantity in enumerate(_QUANTITIES, start=1):
        drawn = []
        for kind in kinds:
            values = _values(dataset, quantity, kind, threshold)
            if values is not None:
                _add_line(fig, quantity, kind, values, row)
                _add_error(fig, dataset, quantity, kind, threshold)
                drawn.append(values.values)
        if quantity.name == "cluster_count":
            fig.update_yaxes(**log_axis(np.concatenate(drawn)), row=row, col=1)
    fig.update_yaxes(range=[-0.04, 1.04], row=2, col=1)
    fig.update_xaxes(**whole_numbers(dataset.sizes["depth"]))
    fig.update_xaxes(title_text="depth", row=len(_QUANTITIES), col=1)
    return lift_legend(fig)


def _add_line(fig: go.Figure, quantity: _Quantity, kind: str, values: xr.DataArray, row: int) -> None:
    name = _BASELINES[kind]
    fig.add_scatter(
        x=values["depth"].values,
        y=values.values,
        name=name,
        legendgroup=name,
        showlegend=row == 1,
        mode="lines+markers" if not kind else "lines",
        line=_LINES[kind],
        marker={"size": 5},
        hovertemplate=f"depth %{{x}}, {name}<br>{escape(quantity.title)} %{{y:.3g}}<extra></extra>",
        row=row,
        col=1,
    )


def _add_error(fig: go.Figure, dataset: xr.Dataset, quantity: _Quantity, kind: str, threshold: float) -> None:
    """Bars of two standard errors at the line that was added last, where these were measured."""
    name = f"{quantity.name}_error{kind}"
    if name in dataset:
        error = 2 * pick(dataset[name].astype(np.float64), "threshold", threshold)
        fig.data[-1].error_y = {"type": "data", "array": error.values, "thickness": 1, "width": 2}
