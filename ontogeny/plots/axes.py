"""The axis of training: logarithmic, with step 0 on it, or the checkpoints' names where steps are unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ontogeny.plots.measurements import known_steps, shorten
from ontogeny.plots.theme import RULE, escape

_CHARACTER = 0.023  # of the axis, on a plot 280 px wide
_GAP = 0.014
_FEW_TICKS = 4
_MOST_EVEN_TICKS = 5
_NAMES_SHOWN = 12
_NAME_LENGTH = 18


@dataclass(frozen=True)
class StepAxis:
    """Where each checkpoint lies on the x axis, and how the axis is labelled.

    `positions` (checkpoint) are log10(1 + step), or 0, 1, 2 ... where the steps are unknown; `steps` is then None.
    `names` say which checkpoint it is, in full, escaped for plotly; `ticks` are pairs (position, label).
    """

    positions: np.ndarray
    names: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    steps: np.ndarray | None

    @property
    def edges(self) -> np.ndarray:
        """Borders (checkpoint + 1) of the cells of a heat map: midway between neighbours."""
        if self.positions.size == 1:
            return np.array([self.positions[0] - 0.5, self.positions[0] + 0.5])
        middles = (self.positions[1:] + self.positions[:-1]) / 2
        first = 2 * self.positions[0] - middles[0]
        last = 2 * self.positions[-1] - middles[-1]
        return np.concatenate([[first], middles, [last]])

    def _fits_flat(self) -> bool:
        return sum(_CHARACTER * len(label) + _GAP for _, label in self.ticks) <= 1

    def layout(self, cells: bool = False) -> dict[str, object]:
        """The axis for `update_xaxes`; small ticks show where checkpoints are. `cells`: leave room for whole cells."""
        low, high = (self.edges[0], self.edges[-1]) if cells else (self.positions[0], self.positions[-1])
        pad = 0.0 if cells else 0.02 * max(high - low, 1.0)
        return {
            "type": "linear",
            "range": [low - pad, high + pad],
            "tickmode": "array",
            "tickvals": [position for position, _ in self.ticks],
            "ticktext": [label for _, label in self.ticks],
            "ticklabeloverflow": "allow",
            "tickangle": 0 if self._fits_flat() else -35,
            "showgrid": False,
            "minor": {"tickmode": "array", "tickvals": self.positions.tolist(), "ticks": "outside", "ticklen": 3,
                      "tickcolor": RULE, "showgrid": False},
            "title": {"text": "checkpoint" if self.steps is None else "training step (log scale)"},
        }  # fmt: skip


def step_axis(dataset: xr.Dataset) -> StepAxis:
    """The axis of a dataset whose checkpoints are in order (see `dataset_of`)."""
    steps = known_steps(dataset)
    if steps is None:
        labels = checkpoint_labels(dataset)
        positions = np.arange(len(labels), dtype=np.float64)
        every = -(-len(labels) // _NAMES_SHOWN)
        ticks = tuple((float(i), escape(shorten(labels[i], _NAME_LENGTH))) for i in range(0, len(labels), every))
        return StepAxis(positions, tuple(escape(label) for label in labels), ticks, None)
    positions = place(steps)
    names = tuple(f"step {step:,}" for step in steps)
    ticks = tuple((float(place(step)), format_step(step)) for step in choose_ticks(int(steps[0]), int(steps[-1])))
    return StepAxis(positions, names, ticks, steps)


def whole_numbers(count: int) -> dict[str, object]:
    """An axis of `count` layers, depths or heads, for `update_xaxes` or `update_yaxes`: labels at whole numbers."""
    return {"tickmode": "linear", "tick0": 0, "dtick": max(1, -(-count // 12)), "showgrid": False}


def log_axis(values: np.ndarray) -> dict[str, Any]:
    """A log axis around the positive values, labelled at 1, 2, 5, 10 ... (only at decades where it spans many).

    Where fewer than two of these lie on it, it is labelled at even distances.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (1.0, 10.0) if positive.size == 0 else (float(positive.min()) / 1.15, float(positive.max()) * 1.15)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1, 2, 5) if np.log10(high / low) < 2.5 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    if sum(low <= tick <= high for tick in ticks) < 2:
        ticks = _even(low, high)
    return {
        "type": "log",
        "range": [float(np.log10(low)), float(np.log10(high))],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:,.10g}" for tick in ticks],
    }


def _even(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, two to six of them."""
    power = int(np.floor(np.log10(high - low))) - 1
    sizes = [factor * 10.0**up for up in (power, power + 1) for factor in (1, 2, 5)]
    size = next(size for size in sizes if (high - low) / size <= _MOST_EVEN_TICKS)
    return [float(f"{number * size:.12g}") for number in range(int(np.ceil(low / size)), int(high / size) + 1)]


def place(steps: np.ndarray | int) -> np.ndarray:
    """Where a step lies on the axis: log10(1 + step), so that step 0 is at 0."""
    return np.log10(1.0 + np.asarray(steps, dtype=np.float64))


def checkpoint_labels(dataset: xr.Dataset) -> list[str]:
    """What to call each checkpoint in a table: its step; where steps are unknown or repeated its name; not escaped."""
    known = known_steps(dataset)
    if known is not None:
        return [f"step {step:,}" for step in known]
    count = dataset.sizes["checkpoint"]
    steps = np.atleast_1d(dataset["step"].values) if "step" in dataset.coords else np.full(count, -1)
    labels = [_label(int(step), name) for step, name in zip(steps, _names(dataset), strict=True)]
    return [label if labels.count(label) == 1 else f"{label} ({i})" for i, label in enumerate(labels)]


def _names(dataset: xr.Dataset) -> list[str]:
    """Each checkpoint's name, else its revision, else nothing."""
    for coordinate in ("checkpoint", "revision"):
        if coordinate in dataset.coords and dataset[coordinate].dtype.kind in "OUT":
            return [str(name) for name in np.atleast_1d(dataset[coordinate].values)]
    return [""] * dataset.sizes["checkpoint"]


def _label(step: int, name: str) -> str:
    if step >= 0:
        return f"step {step:,}, {name}" if name else f"step {step:,}"
    return name or "checkpoint"


def format_step(step: int) -> str:
    """A step as a short label that is still exact: 0, 512, 1k, 1.5k, 1,024, 143k, 2.5M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if step >= size and step % (size // 10) == 0:
            return f"{step / size:g}{unit}"
    return f"{step:,}"


def choose_ticks(first: int, last: int) -> list[int]:
    """Steps to label between `first` and `last`: both ends, 0, the decades, and more where these are few."""
    if first == last:
        return [first]
    low, high = float(place(first)), float(place(last))
    chosen: list[int] = []
    for candidates in _candidates(first, last):
        for step in candidates:
            if first <= step <= last and all(_apart(step, other, high - low) for other in chosen):
                chosen.append(step)
        if len(chosen) >= _FEW_TICKS:
            break
    return sorted(chosen)


def _candidates(first: int, last: int) -> Iterator[list[int]]:
    decades = [10**power for power in range(len(str(last)))]
    yield [last, first, *decades]
    yield [5 * step for step in decades]
    yield [2 * step for step in decades]
    sizes = sorted(factor * step for factor in (1, 2, 5) for step in decades)
    even = next((size for size in sizes if (last - first) / size <= _MOST_EVEN_TICKS), sizes[-1])
    yield list(range(first // even * even, last + 1, even))


def _apart(step: int, other: int, length: float) -> bool:
    if step == other:
        return False
    characters = (len(format_step(step)) + len(format_step(other))) / 2
    return bool(abs(place(step) - place(other)) / length >= _CHARACTER * characters + _GAP)
