"""The figure of waivers: how much attention the first key draws, against how much it gives, by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import HasDataset
from ontogeny.plots.axes import StepAxis, checkpoint_labels, log_axis, step_axis
from ontogeny.plots.key import add_depth_key, add_step_key
from ontogeny.plots.measurements import POSITION, dataset_of, of_key, short_name, waiver_bounds
from ontogeny.plots.theme import (
    ACCENT,
    MUTED,
    PAPER,
    RULE,
    STEP_SCALE,
    WASH,
    colorscale,
    escape,
    figure,
    layer_colours,
)

PATHS_AT_MOST = 6
_PANEL = "the panel of waivers"
_DECADES = 2.5  # of value norms, that are as far apart on the page as sink scores of 0 and 1


def waivers(scan: xr.Dataset | HasDataset) -> go.Figure:
    """Value norm against sink score of the key at position 0: the last checkpoint's heads, and some heads' way there.

    Score: the attention that the key receives per row that sees it (arXiv 2410.10781); value norm: over its mean over
    positions (arXiv 2410.13835); means over sequences. The shaded corner is where a key is a waiver (arXiv 2407.01601).
    Ways are drawn, checkpoint by checkpoint, of the heads that end with the highest waiver rate, of equal ones with the
    highest score. A single checkpoint gives its heads alone. Raises OntogenyError where it was not measured.
    """
    dataset = dataset_of(scan)
    plane = _plane(dataset)
    subtitle = f"{short_name(dataset)}, key position {POSITION}, means over sequences"
    fig = figure("Value norm against sink score", subtitle, height=520)
    if plane.score.shape[0] == 1:
        colours = np.repeat(layer_colours(plane.layers.size), plane.heads.size)
        _add_heads(fig, plane, np.arange(plane.count), checkpoint_labels(dataset)[0], color=colours, size=8)
        add_depth_key(fig, "depth (layer i writes depth i + 1)", plane.layers.size + 1)
    else:
        axis = step_axis(dataset)
        paths = _strongest(plane)
        others = np.setdiff1d(np.arange(plane.count), paths)
        _add_heads(fig, plane, others, checkpoint_labels(dataset)[-1], color=MUTED, size=5, opacity=0.45)
        for head in paths:
            _add_path(fig, plane, int(head), axis)
        _add_names(fig, plane, paths)
        add_step_key(fig, axis)
    shown = plane.value[[-1]] if plane.score.shape[0] == 1 else plane.value
    _frame(fig, shown, *waiver_bounds(dataset))
    return fig


@dataclass(frozen=True)
class _Plane:
    """What is drawn of every head at position 0, each (checkpoint, layer * head); `update` is None where unmeasured."""

    layers: np.ndarray
    heads: np.ndarray
    score: np.ndarray
    value: np.ndarray
    rate: np.ndarray
    update: np.ndarray | None

    @property
    def count(self) -> int:
        return self.layers.size * self.heads.size

    def name(self, head: int) -> tuple[int, int]:
        """Layer and head of a column."""
        return int(self.layers[head // self.heads.size]), int(self.heads[head % self.heads.size])

    def more(self, *where: int | slice | np.ndarray) -> np.ndarray:
        """Waiver rate and, where measured, the norm behind the output projection, (point, 1 or 2), for hover texts."""
        columns = [self.rate] if self.update is None else [self.rate, self.update]
        return np.stack([column.astype(np.float32)[where] for column in columns], axis=-1)

    def hover(self, which: str) -> str:
        """The hover text of points whose `customdata` begins with what `more` gives; `which` says which head, when."""
        update = "" if self.update is None else "<br>behind the output projection %{customdata[1]:.3f}"
        return (
            f"{which}<br>sink score %{{x:.3f}}<br>value norm %{{y:.3f}} of the mean{update}"
            "<br>a waiver in %{customdata[0]:.0%} of sequences<extra></extra>"
        )


def _plane(dataset: xr.Dataset) -> _Plane:
    of_all = {name: of_key(dataset, _PANEL, name) for name in ("sink_score", "value_norm", "waiver_rate")}
    if "update_norm" in dataset.data_vars:
        of_all["update_norm"] = of_key(dataset, _PANEL, "update_norm")
    flat = {name: array.values.reshape(array.sizes["checkpoint"], -1) for name, array in of_all.items()}
    score = of_all["sink_score"]
    return _Plane(
        layers=score["layer"].values,
        heads=score["head"].values,
        score=flat["sink_score"],
        value=flat["value_norm"],
        rate=flat["waiver_rate"],
        update=flat.get("update_norm"),
    )


def _strongest(plane: _Plane) -> np.ndarray:
    """The heads whose ways are drawn, strongest last so that it lies on top; heads without numbers at the end never."""
    score, rate = plane.score[-1], np.nan_to_num(plane.rate[-1])
    order = np.lexsort((np.nan_to_num(score), rate))
    return order[np.isfinite(score[order])][-PATHS_AT_MOST:]


def _add_heads(fig: go.Figure, plane: _Plane, heads: np.ndarray, when: str, **marker: object) -> None:
    """Add the last checkpoint's points of `heads`."""
    names = np.array([plane.name(int(head)) for head in heads], dtype=np.float32).reshape(-1, 2)
    more = plane.more(-1, heads)
    place = more.shape[1]
    fig.add_scatter(
        x=plane.score[-1, heads].astype(np.float32),
        y=plane.value[-1, heads].astype(np.float32),
        name=f"heads, {escape(when)}",
        showlegend=False,
        mode="markers",
        marker={"line": {"color": PAPER, "width": 0.75}, **marker},
        customdata=np.concatenate([more, names], axis=1),
        hovertemplate=plane.hover(f"layer %{{customdata[{place}]}}, head %{{customdata[{place + 1}]}}, {escape(when)}"),
    )


def _add_path(fig: go.Figure, plane: _Plane, head: int, axis: StepAxis) -> None:
    """Add one head's way through the plane, its points coloured by step."""
    layer, of_layer = plane.name(head)
    fig.add_scatter(
        x=plane.score[:, head].astype(np.float32),
        y=plane.value[:, head].astype(np.float32),
        name=f"layer {layer} head {of_layer}",
        showlegend=False,
        mode="lines+markers",
        line={"color": RULE, "width": 1.25},
        marker={
            "size": 8,
            "color": axis.positions,
            "cmin": float(axis.positions[0]),
            "cmax": float(axis.positions[-1]),
            "colorscale": colorscale(STEP_SCALE),
            "line": {"color": PAPER, "width": 0.75},
        },
        text=axis.names,
        customdata=plane.more(slice(None), head),
        hovertemplate=plane.hover(f"layer {layer}, head {of_layer}, %{{text}}"),
    )


def _add_names(fig: go.Figure, plane: _Plane, heads: np.ndarray) -> None:
    """Name the ends of the ways."""
    fig.add_scatter(
        x=plane.score[-1, heads].astype(np.float32),
        y=plane.value[-1, heads].astype(np.float32),
        showlegend=False,
        mode="markers+text",
        marker={"size": 10, "color": "rgba(0,0,0,0)"},
        text=[".".join(map(str, plane.name(int(head)))) for head in heads],
        textposition=_sides(plane.score[-1, heads], plane.value[-1, heads]),
        textfont={"size": 12, "shadow": f"0 0 3px {PAPER}, 0 0 3px {PAPER}"},
        cliponaxis=False,
        hoverinfo="skip",
    )


def _sides(score: np.ndarray, value: np.ndarray) -> list[str]:
    """On which side of each point its name stands: away from the nearest other point."""
    points = np.stack([score, np.log10(np.maximum(value, 1e-9)) / _DECADES], axis=1)
    between = points[:, None] - points[None]
    distance = np.abs(between).sum(axis=-1)
    np.fill_diagonal(distance, np.inf)
    sides = []
    for i, nearest in enumerate(distance.argmin(axis=1)):
        right, up = between[i, nearest]
        across = abs(right) > abs(up)
        sides.append(
            f"middle {'right' if right > 0 else 'left'}" if across else f"{'top' if up > 0 else 'bottom'} center"
        )
    return sides


def _frame(fig: go.Figure, values: np.ndarray, epsilon: float, bound: float) -> None:
    """Add the axes, wide enough for `values`, and the corner of waivers."""
    positive = values[np.isfinite(values) & (values > 0)]
    scale = log_axis(np.concatenate([positive, [bound / 2.5, 1.3]]))
    fig.update_xaxes(title_text="sink score (attention per row)", range=[-0.03, 1.06])
    fig.update_yaxes(title_text="value norm over its mean (log scale)", **scale)
    fig.add_shape(
        type="rect",
        x0=epsilon,
        x1=1.06,
        y0=10 ** scale["range"][0],
        y1=bound,
        layer="between",
        fillcolor=WASH,
        line={"width": 0},
        label={
            "text": f"waiver<br>score > {epsilon:g}<br>norm < {bound:g}",
            "textposition": "bottom left",
            "padding": 6,
            "font": {"size": 12, "color": ACCENT},
        },
    )
