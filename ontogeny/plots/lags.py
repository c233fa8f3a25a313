"""The figure of lagged correlations: how clusters move when sinks and massive activations appear."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ontogeny.errors import OntogenyError
from ontogeny.fitting.correlation import LEAST_PAIRS
from ontogeny.plots.measurements import series_name, shorten
from ontogeny.plots.theme import ACCENT, KEY_SPACE, MUTED, PAPER, RULE, TITLE_SPACE, figure, lift_legend

_ROW = 118  # px
_NAME = 48
_SIGNIFICANT = 0.05
_SPACING = 0.05


def lags(found: xr.Dataset) -> go.Figure:
    """Correlation over lag of every driver and response in `found`, which `ontogeny.lags` gives, with intervals.

    A filled point has a p-value of at most 0.05, which holds for all lags of its panel together. Raises OntogenyError
    where no correlation has a number, or where `found` has depths: choose one with `.sel(depth=...)`.
    """
    if "depth" in found["correlation"].dims:
        raise OntogenyError("correlations of one depth can be drawn: expected found.sel(depth=...), got several depths")
    if not np.isfinite(found["correlation"].values).any():
        verdicts = ", ".join(sorted({str(verdict) for verdict in found["verdict"].values.ravel()}))
        raise OntogenyError(
            f"there is no correlation to draw ({verdicts}): expected at least {LEAST_PAIRS} changes between "
            "checkpoints of sinks or massive activations, and of clusters"
        )
    drivers, responses = ([_words(name) for name in found[dim].values] for dim in ("driver", "response"))
    titles = [f"{response} after {driver}" for response in responses for driver in drivers]
    height = TITLE_SPACE + KEY_SPACE + 70 + _ROW * len(responses)
    level = f"{float(found.attrs['level']):.0%} intervals" if "level" in found.attrs else "intervals"
    words = f"{shorten(series_name(found), _NAME)}; changes between checkpoints, {level}"
    fig = figure("Lagged correlation", words, height, titles, _SPACING, len(drivers))
    for row in range(len(responses)):
        for column in range(len(drivers)):
            _add_panel(fig, found.isel(driver=column, response=row), row + 1, column + 1)
    fig.update_xaxes(showticklabels=False, **_lag_axis(found))
    fig.update_xaxes(showticklabels=True, row=len(responses))
    fig.update_xaxes(title_text="lag (checkpoints; ratio of steps)", row=len(responses), col=1)
    fig.update_yaxes(range=[-1.08, 1.08], tickvals=[-1, 0, 1], zeroline=True, zerolinecolor=RULE)
    for name, significant in ((f"p ≤ {_SIGNIFICANT:g}", True), (f"p > {_SIGNIFICANT:g}", False)):
        fig.add_scatter(x=[None], y=[None], name=name, mode="markers", marker=_marker(np.array([significant])))
    return lift_legend(fig)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _lag_axis(found: xr.Dataset) -> dict[str, object]:
    lags = found["lag"].values
    ratios = found["lag_ratio"].values
    labels = [
        f"{lag:+d}<br>{ratio:.2g}x" if lag and np.isfinite(ratio) else f"{lag:d}"
        for lag, ratio in zip(lags, ratios, strict=True)
    ]
    return {
        "tickmode": "array",
        "tickvals": lags,
        "ticktext": labels,
        "tickangle": 0,
        "range": [lags[0] - 0.5, lags[-1] + 0.5],
    }


def _add_panel(fig: go.Figure, pair: xr.Dataset, row: int, col: int) -> None:
    names = ("correlation", "correlation_low", "correlation_high", "p_value", "pairs")
    value, low, high, p_value, pairs = (pair[name].values for name in names)
    has = np.isfinite(value)
    if not has.any():
        verdict = ", ".join(sorted({str(one) for one in pair["verdict"].values}))
        fig.add_annotation(text=verdict, x=0, y=0, showarrow=False, font={"color": MUTED}, row=row, col=col)
    fig.add_scatter(
        x=pair["lag"].values,
        y=value,
        mode="markers",
        showlegend=False,
        marker=_marker(p_value <= _SIGNIFICANT),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - value),
            "arrayminus": np.nan_to_num(value - low),
            "color": MUTED,
            "thickness": 1.25,
            "width": 3,
        },
        text=[_hover(*each) for each in zip(value, low, high, p_value, pairs, strict=True)],
        hovertemplate="lag %{x}<br>%{text}<extra></extra>",
        row=row,
        col=col,
    )


def _hover(value: float, low: float, high: float, p_value: float, pairs: int) -> str:
    interval = f"{low:.2f} to {high:.2f}" if np.isfinite(low) else "no interval"
    return f"correlation {value:.2f} ({interval})<br>p = {p_value:.3g}, {pairs} pairs"


def _marker(significant: np.ndarray) -> dict[str, object]:
    colours = [ACCENT if one else PAPER for one in significant]
    return {
        "size": 8,
        "color": colours,
        "line": {"color": [ACCENT if one else MUTED for one in significant], "width": 1.5},
    }
