"""The key to a colour scale: a strip of colours above the left half of a figure.

It is made of rectangles, because plotly.js 4.1 misplaces every title of a figure that has a horizontal colour bar, and
a vertical one would take a fifth of a phone's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ontogeny.plots.axes import StepAxis
from ontogeny.plots.theme import MUTED, SHARE_SCALE, STEP_SCALE, colorscale, depth_colours

_WIDTH = 0.5  # of the figure's plotting width
_THICKNESS = 9  # px, as all that follow
_TICK_HEIGHT = 17
_SHADES = 40
_DEPTH_LABELS = 5
_STEP_APART = 0.17  # of the strip, between labels of steps


def add_share_key(fig: go.Figure, title: str, lift: int = 4) -> None:
    """Add the key to shares in 0..1, `lift` px above the plotting area."""
    _add_strip(fig, title, _smooth(SHARE_SCALE), [(0, "0"), (0.5, "0.5"), (1, "1")], lift)


def add_depth_key(fig: go.Figure, title: str, count: int) -> None:
    """Add the key to `count` depths, one colour each."""
    last = count - 1
    named = range(count) if count <= _DEPTH_LABELS else sorted({round(last * i / 4) for i in range(_DEPTH_LABELS)})
    _add_strip(fig, title, depth_colours(count), [((depth + 0.5) / count, str(depth)) for depth in named], lift=4)


def add_step_key(fig: go.Figure, axis: StepAxis) -> None:
    """Add the key to the colours of two or more checkpoints, which lie on the scale as on the axis of training."""
    if axis.steps is None:
        _add_strip(fig, "checkpoint", _smooth(STEP_SCALE), [(0, "first"), (1, "last")], lift=4)
        return
    first, last = axis.positions[0], axis.positions[-1]
    ticks = [((position - first) / (last - first), label) for position, label in axis.ticks]
    shown = [ticks[-1]]
    for tick in ticks[:-1]:
        if all(abs(tick[0] - other[0]) >= _STEP_APART for other in shown):
            shown.append(tick)
    _add_strip(fig, "training step (log scale)", _smooth(STEP_SCALE), shown, lift=4)


def _smooth(scale: Sequence[str]) -> list[str]:
    return list(sample_colorscale(colorscale(scale), [i / (_SHADES - 1) for i in range(_SHADES)]))


def _add_strip(
    fig: go.Figure, title: str, colours: Sequence[str], ticks: Sequence[tuple[float, str]], lift: int
) -> None:
    """Add the strip; `ticks` are pairs (place along it in 0..1, label). Each colour reaches to the right end, so that
    no gap can show between neighbours."""
    bottom = lift + _TICK_HEIGHT
    strip = [
        {
            "type": "rect",
            "xref": "paper",
            "yref": "paper",
            "x0": _WIDTH * i / len(colours),
            "x1": _WIDTH,
            "ysizemode": "pixel",
            "yanchor": 1,
            "y0": bottom,
            "y1": bottom + _THICKNESS,
            "fillcolor": colour,
            "line": {"width": 0},
        }
        for i, colour in enumerate(colours)
    ]
    words = [(_WIDTH * place, "center", label, lift, 11) for place, label in ticks]
    words.append((0, "left", title, bottom + _THICKNESS, 12))
    labels = [
        {
            "text": text,
            "xref": "paper",
            "yref": "paper",
            "x": x,
            "y": 1,
            "yshift": height,
            "xanchor": anchor,
            "yanchor": "bottom",
            "showarrow": False,
            "borderpad": 0,
            "font": {"size": size, "color": MUTED},
        }
        for x, anchor, text, height, size in words
    ]
    fig.update_layout(shapes=[*fig.layout.shapes, *strip], annotations=[*fig.layout.annotations, *labels])
