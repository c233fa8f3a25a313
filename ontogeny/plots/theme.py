"""Colours, fonts and the plotly template that every figure shares."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

INK = "#20242c"
MUTED = "#5d6470"
GRID = "#e7e4dd"
RULE = "#b9b5ab"
ACCENT = "#9c3353"
WASH = "#f8e9ea"
PAPER = "#ffffff"

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
FONT_SIZE = 13
TITLE_SPACE = 52  # px, of the top margin
_COLUMN_GAP = 0.06  # of the plotting width
PANEL_TITLE = 24  # px
KEY_SPACE = 64  # px, of the top margin: a legend or a key

# Lightness changes steadily along each scale, so they keep their order in grey and for every kind of colour vision.
DEPTH_SCALE = ("#1b1f52", "#244a86", "#25759b", "#2f9c94", "#72b678", "#c2b94f")
SHARE_SCALE = ("#f7f4ee", "#f6d9a4", "#eda868", "#d56a4a", "#9c3353", "#571c58", "#240f3d")
STEP_SCALE = ("#e3c27a", "#dd9448", "#c4623f", "#963d55", "#5f2a66", "#2a1648")
REST_SCALE = ("#f7f4ee", "#8f8c86")

# plotly.js 4 offers, unasked, to upload the figure.
_BUTTONS_REMOVED = ("sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d")

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def colorscale(colours: Sequence[str]) -> list[list[float | str]]:
    """The colours at equal distances from 0 to 1, in plotly's form."""
    last = len(colours) - 1
    return [[i / last, colour] for i, colour in enumerate(colours)]


def depth_colours(count: int) -> list[str]:
    """One colour for each of `count` depths of the residual stream, dark (shallow) to light (deep)."""
    places = [i / max(count - 1, 1) for i in range(count)]
    return list(sample_colorscale(colorscale(DEPTH_SCALE), places))


def layer_colours(count: int) -> list[str]:
    """One colour for each of `count` layers: that of the depth which the layer writes, i + 1."""
    return depth_colours(count + 1)[1:]


def escape(text: object) -> str:
    """`text` as it must be handed to plotly, which reads `<b>`, `<a href>` and entities in every label."""
    return html.escape(str(text), quote=False)


def figure(
    title: str, subtitle: str, height: int, panels: Sequence[str] = (), spacing: float = 0.1, columns: int = 1
) -> go.Figure:
    """An empty figure in the project's template, with a panel for each of `panels`' titles, row by row.

    `spacing` is the height between rows, of the plotting area. Texts are escaped here.
    """
    fig = go.Figure()
    if panels:
        titles = [escape(panel) for panel in panels]
        fig = make_subplots(
            rows=len(panels) // columns,
            cols=columns,
            subplot_titles=titles,
            vertical_spacing=spacing,
            horizontal_spacing=_COLUMN_GAP,
        )
        starts = [axis.domain[0] for axis, title in zip(fig.select_xaxes(), titles, strict=True) if title]
        for note, start in zip(fig.layout.annotations, starts, strict=True):
            note.update(x=start, xanchor="left", font={"size": FONT_SIZE, "color": MUTED})
    fig.update_layout(template=TEMPLATE, height=height)
    fig.update_layout(title={"text": escape(title), "subtitle": {"text": escape(subtitle)}})
    fig.update_layout(margin_t=TITLE_SPACE + KEY_SPACE)
    return fig


def lift_legend(fig: go.Figure) -> go.Figure:
    """Put the legend above the titles of the first row of panels."""
    plotting = fig.layout.height - fig.layout.margin.t - TEMPLATE.layout.margin.b
    return fig.update_layout(legend={"y": 1 + PANEL_TITLE / plotting})


def untitled(fig: go.Figure) -> go.Figure:
    """Take the title and its space from a figure that gets a heading elsewhere."""
    return fig.update_layout(
        title=None, margin_t=fig.layout.margin.t - TITLE_SPACE, height=fig.layout.height - TITLE_SPACE
    )


def _axis() -> dict[str, object]:
    return {
        "gridcolor": GRID,
        "linecolor": RULE,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": RULE,
        "title": {"font": {"size": FONT_SIZE, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 12},
        "automargin": True,
    }


TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": FONT_SIZE, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "title": {
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
            "font": {"size": 17, "color": INK},
            "subtitle": {"font": {"size": 12.5, "color": MUTED}},
        },
        "margin": {"l": 56, "r": 20, "b": 52},
        "xaxis": _axis(),
        "yaxis": _axis(),
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        "hoverlabel": {"font": {"family": FONT, "size": 12.5}, "align": "left"},
        "hovermode": "closest",
        "modebar": {"remove": [*_BUTTONS_REMOVED], "color": RULE, "activecolor": INK},
    }
)
