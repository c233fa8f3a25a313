"""Figures of simulated particles: the energy's staircase, cluster counts, trajectories, phase diagram and lifetimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import ArrayLike

from ontogeny.errors import OntogenyError, UsageError
from ontogeny.plots.axes import log_axis
from ontogeny.plots.key import add_share_key
from ontogeny.plots.measurements import pick, place_of
from ontogeny.plots.theme import (
    ACCENT,
    DASHES,
    INK,
    KEY_SPACE,
    MUTED,
    SHARE_SCALE,
    TITLE_SPACE,
    colorscale,
    depth_colours,
    escape,
    figure,
    lift_legend,
)

THRESHOLD = 0.999
_LINES_AT_MOST = 6
_ROW = 230  # px
_SCENE = 420  # px
_SPACING = 0.1
_ARC = 6
_PATH_OPACITY = 0.6
_TIMES = {"log": "time (log scale)", "stretched": "stretched time, log(1 + t) / β"}


def simulation(
    dataset: xr.Dataset,
    *,
    betas: Sequence[float] | None = None,
    sample: int = 0,
    time: str = "log",
    threshold: float = THRESHOLD,
) -> go.Figure:
    """Energy and cluster count of one sample over time, a line for each beta, and its particles where states were kept.

    The energy is drawn as 2 beta E, in (0, 1]: 1 where all particles are one (arXiv 2312.10794); each merger is a step
    of its staircase (arXiv 2410.06833). `time` is "log", of the model's time t, or "stretched", s = log(1 + t) / beta,
    in which clusters of inner product c merge near s = 1 - c. The count is that at `threshold`. Particles are drawn
    for the largest of `betas` (by default at most six of those simulated, evenly chosen): on the circle by their
    angle, from the middle of the widest gap that they leave in the end once round to it, so that a cluster is one band;
    on the sphere by their paths; in more dimensions they are not. Lines end where the step budget did.

    Raises UsageError for a time, beta, sample or threshold that there is not, OntogenyError for what is no simulation,
    or one that recorded time 0 alone.
    """
    _require(dataset, "energy", "cluster_count")
    if time not in _TIMES:
        raise UsageError(f"expected the time {' or '.join(_TIMES)}, got {time!r}")
    if sample not in dataset["sample"].values:
        raise UsageError(f"expected a sample of 0 to {int(dataset['sample'].values.max())}, got {sample}")
    one = _chosen(dataset.sel(sample=sample), betas)
    dimension = one.sizes["axis"] if "state" in one else 0
    panels = ["2βE", f"clusters at threshold {threshold:g}"]
    if dimension in (2, 3):
        panels.append(f"particles at β = {float(one['beta'][-1]):g}" + (", angle" if dimension == 2 else ""))
    height = TITLE_SPACE + KEY_SPACE + 60 + _ROW * 2 + {2: _ROW, 3: _SCENE}.get(dimension, 0)
    fig = figure("Simulated particles", f"{_model(dataset)}; sample {sample}", height, panels, _SPACING)
    energies = (2 * one["beta"] * one["energy"]).transpose("beta", "time").values
    counts = pick(one["cluster_count"], "threshold", threshold).transpose("beta", "time").values
    _add_lines(fig, one, time, energies, "2βE", row=1)
    _add_lines(fig, one, time, counts, "clusters", row=2)
    fig.update_yaxes(**log_axis(counts.astype(np.float64)), row=2, col=1)
    _label_time(fig, one, time)
    if dimension == 2:
        _add_circle(fig, one, time)
    elif dimension == 3:
        _add_sphere(fig, one)
    return lift_legend(fig)


def phase_diagram(dataset: xr.Dataset) -> go.Figure:
    """Share of pairs of particles that are together, <x_i, x_j> > 0.999, over beta x time, mean over samples.

    Blank where a sample had used up its steps (arXiv 2312.10794). Raises OntogenyError for what is no simulation, or
    one that recorded time 0 alone.
    """
    _require(dataset, "clustered")
    share = dataset["clustered"].mean("sample", skipna=False).transpose("beta", "time").sortby("beta")
    share = share.isel(time=np.flatnonzero(share["time"].values > 0))
    times, betas = share["time"].values, share["beta"].values
    samples = dataset.sizes["sample"]
    words = f"{_model(dataset)}; {samples} sample{'s' * (samples != 1)}"
    fig = figure("Clustered pairs", words, height=520)
    fig.add_heatmap(
        x=np.exp(_edges(np.log(times))),
        y=_edges(betas),
        z=share.values.astype(np.float32),
        zmin=0,
        zmax=1,
        colorscale=colorscale(SHARE_SCALE),
        showscale=False,
        hovertemplate="β about %{y:.3g}, t about %{x:.3g}<br>clustered pairs %{z:.3f}<extra></extra>",
    )
    add_share_key(fig, escape("share of pairs with <x_i, x_j> > 0.999"))
    fig.update_xaxes(title_text=_TIMES["log"], **_decades(_shown(times), np.log10(times[-1])), showgrid=False)
    fig.update_yaxes(title_text="β", showgrid=False)
    return fig


def lifetimes(
    beta: ArrayLike, simulated: ArrayLike, exact: ArrayLike, approximations: Mapping[str, ArrayLike] | None = None
) -> go.Figure:
    """Lifetime of a state of several clusters over beta: simulated points, the exact line, and approximations.

    `beta`, `simulated` and `exact` (n,), each of `approximations` (n,) under its name. Below, how far the simulated
    points are from the exact line, in per cent (arXiv 2410.06833). Raises UsageError where the sizes differ.
    """
    lines = {"exact integral": exact, **(approximations or {})}
    x, points = np.asarray(beta, dtype=np.float64), np.asarray(simulated, dtype=np.float64)
    values = {name: np.asarray(one, dtype=np.float64) for name, one in lines.items()}
    sizes = {"beta": x.shape, "simulated": points.shape, **{name: one.shape for name, one in values.items()}}
    if x.ndim != 1 or len(set(sizes.values())) > 1:
        raise UsageError(f"expected values of one shape (n,), got {', '.join(f'{k} {v}' for k, v in sizes.items())}")
    fig = figure(
        "Lifetime of clusters",
        "model time; below, deviation from the exact integral",
        640,
        ["lifetime (model time)", "simulated over exact, %"],
        0.12,
    )
    order = np.argsort(x)
    for i, (name, one) in enumerate(values.items()):
        line = {"color": INK if i == 0 else MUTED, "width": 2 if i == 0 else 1.5, "dash": DASHES[i % len(DASHES)]}
        fig.add_scatter(x=x[order], y=one[order], name=name, mode="lines", line=line, row=1, col=1)
    dots = {"mode": "markers", "marker": {"color": ACCENT, "size": 7}}
    fig.add_scatter(x=x, y=points, name="simulated", **dots, row=1, col=1)
    off = 100 * (points / values["exact integral"] - 1)
    fig.add_scatter(x=x, y=off, name="simulated over exact", showlegend=False, **dots, row=2, col=1)
    fig.update_traces(hovertemplate="β = %{x:g}<br>%{y:.4g}", row=1, col=1)
    fig.update_traces(hovertemplate="β = %{x:g}<br>%{y:+.3g} %<extra></extra>", row=2, col=1)
    every = np.log10(np.concatenate([points, *values.values()]))
    every = every[np.isfinite(every)]
    fig.update_yaxes(**_decades(every.min(initial=0.0), every.max(initial=1.0)), row=1, col=1)
    fig.update_yaxes(zeroline=True, zerolinecolor=MUTED, row=2, col=1)
    fig.update_xaxes(title_text="β", row=2, col=1)
    return lift_legend(fig)


def _require(dataset: xr.Dataset, *names: str) -> None:
    missing = [name for name in names if name not in dataset.data_vars]
    if missing or not {"beta", "sample", "time"} <= set(dataset.dims):
        lacks = f"`{missing[0]}`" if missing else "dimensions beta, sample and time"
        raise OntogenyError(f"expected the dataset of a simulation, it has no {lacks}: `ontogeny.simulate` makes one")
    if not (dataset["time"] > 0).any():
        raise OntogenyError("expected values at times after 0, there are none to draw: simulate with later `times`")


def _chosen(dataset: xr.Dataset, betas: Sequence[float] | None) -> xr.Dataset:
    """The betas to draw, ascending."""
    ordered = dataset.sortby("beta")
    if betas is None:
        places = np.linspace(0, ordered.sizes["beta"] - 1, min(ordered.sizes["beta"], _LINES_AT_MOST))
        return ordered.isel(beta=np.unique(places.round().astype(int)))
    if not len(betas):
        raise UsageError("expected at least one beta to draw, got none")
    return ordered.isel(beta=[place_of(ordered["beta"], "beta", beta) for beta in sorted(betas)])


def _model(dataset: xr.Dataset) -> str:
    """What was simulated, in a few words."""
    attrs = dataset.attrs
    kind = str(attrs.get("kind", "self-attention"))
    parts = [
        kind.upper() if kind in ("sa", "usa") else kind,
        f"{attrs['particles']} particles" if "particles" in attrs else "",
        f"{attrs['dimension']} dimensions" if "dimension" in attrs else "",
        f"{attrs['heads']} heads" if attrs.get("heads", 1) > 1 else "",
        _given(attrs),
        "causal" if attrs.get("causal") else "",
        f"noise {attrs['noise']:g}" if attrs.get("noise") else "",
        f"start {attrs['start']}" if "start" in attrs else "",
    ]
    return ", ".join(filter(None, parts))


def _given(attrs: Mapping[str, object]) -> str:
    """Which of Q, K, V are not the identity."""
    names = [name for name in "QKV" if name not in str(attrs.get("identity", "Q, K, V"))]
    return f"{', '.join(names)} given" if names else ""


def _places(dataset: xr.Dataset, time: str, beta: float) -> np.ndarray:
    """Where the recorded times lie on the axis of `time`; time 0 has no place on a log axis."""
    times = dataset["time"].values
    if time == "stretched":
        return np.log1p(times) / beta
    return np.where(times > 0, times, np.nan)


def _label_time(fig: go.Figure, dataset: xr.Dataset, time: str) -> None:
    rows = 2 + ("state" in dataset and dataset.sizes["axis"] == 2)
    if time == "log":
        positive = dataset["time"].values[dataset["time"].values > 0]
        fig.update_xaxes(**_decades(_shown(positive), np.log10(positive[-1])))
    else:
        fig.update_xaxes(range=[0, _stretched_end(dataset)])
    fig.update_xaxes(matches="x")
    fig.update_xaxes(title_text=_TIMES[time], row=rows, col=1)


def _stretched_end(dataset: xr.Dataset) -> float:
    """A little behind where the last of the lines has come to one cluster, or ends."""
    several = (dataset["cluster_count"] > 1).any("threshold").transpose("beta", "time").values
    stretched = np.log1p(dataset["time"].values) / dataset["beta"].values[:, None]
    return 1.1 * float(np.where(several, stretched, 0).max()) or float(stretched.max())


def _shown(times: np.ndarray) -> float:
    """Where a log axis of times begins: before a tenth little happens."""
    return float(max(np.log10(times[0]), min(-1.0, np.log10(times[-1]) - 2)))


def _decades(low: float, high: float) -> dict[str, object]:
    """A log axis over the powers of ten from `low` to `high`, labelled at about eight of them at most."""
    pad = 0.02 * max(high - low, 1.0)
    every = max(1, int(np.ceil((high - low) / 8)))
    return {
        "type": "log",
        "range": [low - pad, high + pad],
        "dtick": every,
        "exponentformat": "power",
        "minexponent": 4,
    }


def _edges(places: np.ndarray) -> np.ndarray:
    """Borders of cells, midway between ascending places."""
    if places.size == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    middles = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])


def _add_lines(fig: go.Figure, dataset: xr.Dataset, time: str, values: np.ndarray, what: str, row: int) -> None:
    betas = dataset["beta"].values
    for beta, colour, one in zip(betas, depth_colours(betas.size), values, strict=True):
        name = f"β = {beta:g}"
        fig.add_scatter(
            x=_places(dataset, time, beta),
            y=one,
            name=name,
            legendgroup=name,
            showlegend=row == 1,
            mode="lines",
            line={"color": colour, "width": 1.75, "shape": "hv" if what == "clusters" else "linear"},
            text=[f"t = {t:.4g}" for t in dataset["time"].values],
            hovertemplate=f"{name}, %{{text}}<br>{what} %{{y:.4g}}<extra></extra>",
            row=row,
            col=1,
        )


def _add_circle(fig: go.Figure, dataset: xr.Dataset, time: str) -> None:
    """Angles of the particles on the circle, in turns of pi; a line is broken where its particle crosses the cut."""
    last = dataset.isel(beta=-1)
    states = last["state"].transpose("particle", "time", "axis").values
    angles = _cut(np.arctan2(states[..., 1], states[..., 0])) / np.pi
    x = _places(dataset, time, float(last["beta"]))
    for i, angle in enumerate(angles):
        crossing = np.flatnonzero(np.abs(np.diff(angle)) > 1) + 1
        fig.add_scatter(
            x=np.insert(x, crossing, x[crossing]),
            y=np.insert(angle, crossing, np.nan),
            mode="lines",
            line={"color": MUTED, "width": 1},
            opacity=_PATH_OPACITY,
            showlegend=False,
            hovertemplate=f"particle {i}<br>angle %{{y:.3f}} π<extra></extra>",
            row=3,
            col=1,
        )
    fig.update_yaxes(title_text="angle / π", row=3, col=1)


def _cut(angles: np.ndarray) -> np.ndarray:
    """Angles (particle, time), NaN where unknown, as ones of the turn around 0 that begins at the cut.

    The cut is the middle of the widest gap between the last known angles.
    """
    known = np.flatnonzero(np.isfinite(angles).all(axis=0))
    if not known.size:
        return angles
    ends = np.sort(angles[:, known[-1]])
    gaps = np.diff(ends, append=ends[0] + 2 * np.pi)
    cut = ends[gaps.argmax()] + gaps.max() / 2
    begin = (cut + np.pi) % (2 * np.pi) - np.pi
    begin -= 2 * np.pi * (begin > 0)
    return begin + (angles - begin) % (2 * np.pi)


def _arcs(path: np.ndarray) -> np.ndarray:
    """`path` (time, 3) on the sphere with points between, so that lines do not cut through the ball."""
    places = np.linspace(0, len(path) - 1, _ARC * (len(path) - 1) + 1)
    between = np.stack([np.interp(places, np.arange(len(path)), axis) for axis in path.T], axis=-1)
    norms = np.linalg.norm(between, axis=-1, keepdims=True)
    return np.divide(between, norms, out=np.full_like(between, np.nan), where=norms > 0)


def _add_sphere(fig: go.Figure, dataset: xr.Dataset) -> None:
    """Paths of the particles on the sphere, each with a dot at its last known place."""
    last = dataset.isel(beta=-1)
    states = last["state"].transpose("particle", "time", "axis").values
    known = states[:, np.isfinite(states).all(axis=(0, 2))]
    drawn = {"mode": "lines", "line": {"color": MUTED, "width": 2}, "opacity": _PATH_OPACITY, "showlegend": False}
    for i, path in enumerate(known):
        x, y, z = _arcs(path).T.astype(np.float32)
        hover = f"particle {i}<br>%{{x:.3f}}, %{{y:.3f}}, %{{z:.3f}}<extra></extra>"
        fig.add_scatter3d(x=x, y=y, z=z, hovertemplate=hover, **drawn)
    ends = known[:, -1].T.astype(np.float32)
    dots = {"color": ACCENT, "size": 3}
    fig.add_scatter3d(x=ends[0], y=ends[1], z=ends[2], mode="markers", marker=dots, showlegend=False, hoverinfo="skip")
    axis = {"range": [-1.05, 1.05], "showticklabels": False, "title": "", "showbackground": False}
    fig.update_layout(
        scene={
            "aspectmode": "cube",
            "camera": {"eye": {"x": 1, "y": 1, "z": 0.6}},
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
        }
    )
    fig.layout.scene.domain = {"x": [0, 1], "y": list(fig.layout.yaxis3.domain)}
    fig.update_xaxes(visible=False, row=3, col=1)
    fig.update_yaxes(visible=False, row=3, col=1)
