"""The figure of massive activations: how large they are at which depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.dataset import RATIO_OF_MEANS, HasDataset
from ontogeny.errors import OntogenyError
from ontogeny.fitting import Verdict, evaluate
from ontogeny.plots.axes import StepAxis, checkpoint_labels, log_axis, place, step_axis, whole_numbers
from ontogeny.plots.key import add_depth_key
from ontogeny.plots.measurements import (
    dataset_of,
    known_steps,
    massive_ratios,
    short_name,
)
from ontogeny.plots.theme import (
    MUTED,
    PAPER,
    TITLE_SPACE,
    depth_colours,
    escape,
    figure,
)

RATIO = "max|h| / median|h|"
_CURVE_POINTS = 160
_LEGEND_AT_MOST = 6
_BEST = (Verdict.OK, Verdict.NOT_IDENTIFIABLE)  # verdicts whose curve is the best one; others are dotted


def massive_ratio(scan: xr.Dataset | HasDataset, fits: xr.Dataset | None = None) -> go.Figure:
    """The massive ratio of every depth over step, with the fitted curves where `fits` are given.

    max|h| / median|h| over tokens and dimensions (arXiv 2508.03616), the ratio of means over sequences. A single
    checkpoint gives the ratio over depth. Raises OntogenyError where it was not measured, or where the fits are of
    another metric.
    """
    dataset = dataset_of(scan)
    refuse_other_fits(fits)
    ratios = massive_ratios(dataset)
    subtitle = f"{short_name(dataset)}, {RATIO_OF_MEANS} over sequences"
    fig = figure("Massive ratio by depth", subtitle, height=460)
    if ratios.sizes["checkpoint"] == 1:
        add_ratio_profile(fig, ratios.isel(checkpoint=0))
        fig.update_xaxes(title_text=f"depth (the one checkpoint: {escape(checkpoint_labels(dataset)[0])})")
        fig.update_layout(margin_t=TITLE_SPACE + 24)
        return fig
    axis = step_axis(dataset)
    depths = ratios.sizes["depth"]
    add_ratio_lines(fig, axis, ratios, fits)
    if depths > _LEGEND_AT_MOST:
        fig.update_traces(showlegend=False)
        add_depth_key(fig, "depth", depths)
    fig.update_xaxes(**axis.layout())
    return fig


def refuse_other_fits(fits: xr.Dataset | None) -> None:
    """Raise OntogenyError where `fits` are of something other than the massive ratio over depth."""
    if fits is None:
        return
    metric = fits.attrs.get("metric", "massive_ratio")
    if metric != "massive_ratio" or "depth" not in fits.dims:
        raise OntogenyError(
            f"the massive ratio can only be drawn with fits of `massive_ratio` over `depth`; these are of `{metric}` "
            f"over {', '.join(map(str, fits.dims)) or 'nothing'}: fit again with metric='massive_ratio'"
        )


def add_ratio_lines(
    fig: go.Figure, axis: StepAxis, ratios: xr.DataArray, fits: xr.Dataset | None, **where: object
) -> None:
    """Add one line a depth and the y axis, logarithmic. With fits: points, the curve as the line, and a linear axis.

    The fit minimises differences, not ratios, and its curve may go below zero, so a log axis would misrepresent it.
    """
    depths = ratios["depth"].values
    for depth, colour, values in zip(depths, depth_colours(depths.size), ratios.values.T, strict=True):
        curve = None if fits is None or axis.steps is None else _curve(fits, int(depth), axis.steps)
        fig.add_scatter(
            x=axis.positions,
            y=values,
            name=f"depth {depth}",
            legendgroup=f"depth {depth}",
            mode="lines+markers" if curve is None else "markers",
            line={"color": colour, "width": 1.5},
            marker={"color": colour, "size": 6},
            text=axis.names,
            hovertemplate=f"depth {depth}, %{{text}}<br>{RATIO} %{{y:.4g}}<extra></extra>",
            **where,
        )
        if curve is not None and fits is not None and axis.steps is not None:
            _add_curve(fig, curve, int(depth), colour, **where)
            _add_intervals(fig, fits.sel(depth=depth), int(axis.steps[-1]), colour, **where)
    fig.update_yaxes(title_text=RATIO, **(log_axis(ratios.values) if fits is None else {}), **where)


def add_ratio_profile(fig: go.Figure, ratios: xr.DataArray, **where: object) -> None:
    """Add the ratio (depth) of one checkpoint over depth, and both axes."""
    depths = ratios["depth"].values
    fig.add_scatter(
        x=depths,
        y=ratios.values,
        name=RATIO,
        showlegend=False,
        mode="lines+markers",
        line={"color": MUTED, "width": 1.5},
        marker={"color": depth_colours(depths.size), "size": 8, "line": {"color": PAPER, "width": 1}},
        hovertemplate=f"depth %{{x}}<br>{RATIO} %{{y:.4g}}<extra></extra>",
        **where,
    )
    fig.update_xaxes(title_text="depth", **whole_numbers(depths.size), **where)
    fig.update_yaxes(title_text=RATIO, **log_axis(ratios.values), **where)


def drawable(dataset: xr.Dataset, fits: xr.Dataset | None) -> xr.Dataset | None:
    """`fits`, where they are of the massive ratio and hold at least one curve that can be drawn over steps."""
    if fits is None or fits.attrs.get("metric", "massive_ratio") != "massive_ratio" or "depth" not in fits.dims:
        return None
    return fits if known_steps(dataset) is not None and np.isfinite(fits["K"].values).any() else None


@dataclass(frozen=True)
class _Curve:
    """A fitted curve on the step axis: `positions` and `values` (point), and what is known of it, in words."""

    positions: np.ndarray
    values: np.ndarray
    sound: bool
    verdict: str


def _curve(fits: xr.Dataset, depth: int, steps: np.ndarray) -> _Curve | None:
    """The curve of a depth between the first and the last step (arXiv 2508.03616); None where it has none."""
    if depth not in fits["depth"].values:
        return None
    row = fits.sel(depth=depth)
    if not np.isfinite(row["K"]):
        return None
    positions = np.linspace(float(place(steps[0])), float(place(steps[-1])), _CURVE_POINTS)
    t = np.clip(10**positions - 1, steps[0], steps[-1])
    verdict = str(row["verdict"].item())
    r2 = f", R² {float(row['r2']):.3f}" if np.isfinite(row["r2"]) else ""
    return _Curve(positions, evaluate(row, t).values, verdict in _BEST, f"{escape(verdict)}{r2}")


def _add_curve(fig: go.Figure, curve: _Curve, depth: int, colour: str, **where: object) -> None:
    fig.add_scatter(
        x=curve.positions.astype(np.float32),
        y=curve.values.astype(np.float32),
        name=f"depth {depth}, fit",
        legendgroup=f"depth {depth}",
        showlegend=False,
        mode="lines",
        line={"color": colour, "width": 1.75, "dash": "solid" if curve.sound else "dot"},
        hovertemplate=f"depth {depth}, fitted curve ({curve.verdict})<br>{RATIO} %{{y:.4g}}<extra></extra>",
        **where,
    )


def _add_intervals(fig: go.Figure, fitted: xr.Dataset, last: int, colour: str, **where: object) -> None:
    """Thin bars over the intervals of the curve's peak and of its last value, where `fitted` has finite ones."""
    depth = int(fitted["depth"])
    bars = []
    for name, step in (("peak_value", fitted["peak_step"].values), ("final_value", np.array(last))):
        if f"{name}_low" in fitted:
            bars.append([float(place(step)), *(float(fitted[f"{name}{end}"]) for end in ("", "_low", "_high"))])
    bars = [bar for bar in bars if np.isfinite(bar).all()]
    if not bars:
        return
    x, y, low, high = np.array(bars).T
    fig.add_scatter(
        x=x,
        y=y,
        name=f"depth {depth}, intervals",
        legendgroup=f"depth {depth}",
        showlegend=False,
        mode="markers",
        marker={"color": colour, "size": 1},
        opacity=0.6,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": high - y,
            "arrayminus": y - low,
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        hoverinfo="skip",
        **where,
    )
