"""The figure of where massive activations sit: at which position and in which dimension."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import HasDataset
from ontogeny.plots.axes import checkpoint_labels, step_axis, whole_numbers
from ontogeny.plots.key import add_share_key
from ontogeny.plots.measurements import dataset_of, require, short_name
from ontogeny.plots.theme import KEY_SPACE, REST_SCALE, SHARE_SCALE, TITLE_SPACE, colorscale, figure

_SITES_AT_MOST = 8
_BETWEEN = 92  # px between the panels: an axis and a title
_BELOW = 52
_PANEL_TITLE = 20
_SHARE_AT_LEAST = 0.2


@dataclass(frozen=True)
class Sites:
    """The places where the largest activation sits most often, and how often.

    `places` are (position, dimension), the most frequent first; `by_step` (place, checkpoint) is the share of sequences
    and block outputs whose largest activation is there, `by_depth` (place, depth) that of sequences at the last
    checkpoint; each share is in 0..1.
    """

    places: tuple[tuple[int, int], ...]
    by_step: np.ndarray
    by_depth: np.ndarray


def find_sites(dataset: xr.Dataset) -> Sites:
    """The most frequent places of the largest activation of each sequence and depth.

    Raises OntogenyError where `top_position` and `top_dimension` were not measured.
    """
    require(dataset, "the sites of massive activations", "top_position", "top_dimension")
    first = dataset[["top_position", "top_dimension"]].sel(rank=1).transpose("checkpoint", "sequence", "depth")
    position, dimension = first["top_position"].values, first["top_dimension"].values
    width = int(dimension.max()) + 1
    keys, numbered = np.unique(position.astype(np.int64) * width + dimension, return_inverse=True)
    numbered = numbered.reshape(position.shape)
    by_step = _shares(numbered[:, :, 1:].reshape(position.shape[0], -1), keys.size)
    by_depth = _shares(numbered[-1].T, keys.size)
    peak = np.maximum(by_step.max(axis=1), by_depth.max(axis=1))
    overall = by_step.sum(axis=1)
    order = np.lexsort((-overall, -peak))[:_SITES_AT_MOST]
    order = order[peak[order] >= _SHARE_AT_LEAST]
    order = order[np.argsort(-overall[order], kind="stable")]
    places = tuple((int(keys[i] // width), int(keys[i] % width)) for i in order)
    return Sites(places, by_step[order], by_depth[order])


def _shares(numbered: np.ndarray, count: int) -> np.ndarray:
    """Shares (place, row) of each row's entries that are place 0 .. count-1."""
    rows = np.arange(numbered.shape[0])[:, None]
    counts = np.bincount((rows * count + numbered).ravel(), minlength=numbered.shape[0] * count)
    return (counts.reshape(-1, count) / max(numbered.shape[1], 1)).T


def massive_sites(scan: xr.Dataset | HasDataset) -> go.Figure:
    """Where the largest activation sits: its most frequent (position, dimension) over step, and by depth at the end.

    Each cell is the share of sequences (over step: and of block outputs) with the largest |h| at that place; the last
    row gathers all other places (arXiv 2402.17762). Raises OntogenyError where it was not measured.
    """
    dataset = dataset_of(scan)
    sites = find_sites(dataset)
    axis = step_axis(dataset)
    last = checkpoint_labels(dataset)[-1]
    single = axis.positions.size == 1
    rows = len(sites.places) + 1
    titles = [f"by depth, at {last}"] if single else ["over training, all blocks", f"by depth, at {last}"]
    between = (len(titles) - 1) * _BETWEEN
    inside = len(titles) * 26 * rows + between
    height = inside + TITLE_SPACE + KEY_SPACE + _PANEL_TITLE + _BELOW
    fig = figure("Where the largest activation sits", short_name(dataset), height, titles, spacing=between / inside)
    fig.update_layout(margin_b=_BELOW, margin_t=TITLE_SPACE + KEY_SPACE + _PANEL_TITLE)
    labels = ["elsewhere", *[f"pos {position}, dim {dimension}" for position, dimension in reversed(sites.places)]]
    if not single:
        hover = np.tile(np.array(axis.names, dtype=object), (rows, 1))
        _add_sites(fig, axis.edges, labels, sites.by_step, hover, row=1)
        fig.update_xaxes(**axis.layout(cells=True), row=1, col=1)
    depths = dataset["depth"].values
    hover = np.tile(np.array([f"depth {depth}" for depth in depths], dtype=object), (rows, 1))
    _add_sites(fig, depths, labels, sites.by_depth, hover, row=len(titles))
    fig.update_xaxes(title_text="depth", **whole_numbers(depths.size), row=len(titles), col=1)
    add_share_key(fig, "share of sequences", lift=4 + _PANEL_TITLE)
    return fig


def _add_sites(
    fig: go.Figure, x: np.ndarray, labels: list[str], shares: np.ndarray, hover: np.ndarray, row: int
) -> None:
    """Add the rows `labels`, the lowest of which is what is left of `shares` (place, column), in a grey of its own."""
    elsewhere = np.clip(1 - shares.sum(axis=0, keepdims=True), 0, 1)
    rows = np.arange(len(labels))
    for places, values, scale in ((rows[:1], elsewhere, REST_SCALE), (rows[1:], shares[::-1], SHARE_SCALE)):
        fig.add_heatmap(
            x=x,
            y=places,
            z=values.astype(np.float32),
            zmin=0,
            zmax=1,
            ygap=1,
            text=hover[places],
            customdata=np.repeat(np.array(labels, dtype=object)[places, None], shares.shape[1], axis=1),
            colorscale=colorscale(scale),
            showscale=False,
            hovertemplate="%{customdata}<br>%{text}<br>share %{z:.3f}<extra></extra>",
            row=row,
            col=1,
        )
    fig.update_yaxes(tickmode="array", tickvals=rows.tolist(), ticktext=labels, range=[-0.5, len(labels) - 0.5],
                     showgrid=False, row=row, col=1)  # fmt: skip
