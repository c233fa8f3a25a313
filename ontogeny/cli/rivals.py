"""What `ontogeny fit --against rivals` adds: the comparison of families of curves, as a table and in words."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ontogeny.fitting.comparison import UNSCORED

if TYPE_CHECKING:
    import xarray as xr
    from rich.table import Table

SHORT = ("exp-log", "1st order", "2nd order", "power", "logistic", "lines")


def rival_record(compared: xr.Dataset) -> dict[str, Any]:
    """Everything for machines: the scores at every place, and how often each family is best."""
    return {"places": [_place(one) for one in _places(compared)], "summary": _summary(compared)}


def rival_table(compared: xr.Dataset) -> Table:
    """For each place and family by how much its AICc exceeds the best one's, and its forecast's error."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text("rivals: AICc above the lowest, and forecast error over the range"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in (*compared["best"].dims, *SHORT):
        table.add_column(str(name), justify="right", no_wrap=True)
    for one in _places(compared):
        lowest = float(np.nanmin(one["aicc"])) if np.isfinite(one["aicc"]).any() else math.nan
        excess = one["aicc"].values - lowest
        places = [str(one[dim].item()) for dim in compared["best"].dims]
        cells = [
            Text(f"{_fixed(above, 1)} {_fixed(error, 2)}", style="bold" if above == 0 else "")
            for above, error in zip(excess, one["forecast"].values, strict=True)
        ]
        table.add_row(*places, *cells)
    return table


def rival_lines(compared: xr.Dataset) -> list[str]:
    """The summary: how often each family is best, and how well each forecasts."""
    best = Counter(compared["best"].values.ravel().tolist())
    none = best.pop(UNSCORED, 0)
    wins = [f"{name} at {count}" for name, count in best.most_common()] + [f"none at {none}"] * bool(none)
    lines = [f"best by AICc, of {compared['best'].size}: {', '.join(wins)}"]
    errors = [(error, name) for name, one in _summary(compared).items() if (error := one["mean_forecast"]) is not None]
    if errors:
        lines.append("mean error of forecast, of the last 30 % from the first 70 % of the checkpoints, over the range:")
        lines.append("  " + ", ".join(f"{name} {error:.2f}" for error, name in sorted(errors)))
    return lines


def _summary(compared: xr.Dataset) -> dict[str, dict[str, float | None]]:
    best = compared["best"].values.ravel()
    summary = {}
    for name in compared["family"].values:
        errors = compared["forecast"].sel(family=name).values
        known = errors[np.isfinite(errors)]
        mean = float(known.mean()) if known.size else None
        summary[str(name)] = {"best": int((best == name).sum()), "mean_forecast": mean}
    return summary


def _places(compared: xr.Dataset) -> list[xr.Dataset]:
    dims = compared["best"].dims
    every = np.ndindex(*compared["best"].shape)
    return [compared.isel(dict(zip(dims, index, strict=True))) for index in every]


def _place(one: xr.Dataset) -> dict[str, Any]:
    scores = {
        str(name): {
            score: None if not math.isfinite(value := float(one[score].sel(family=name))) else value
            for score in ("r2", "aicc", "forecast")
        }
        for name in one["family"].values
    }
    where = {str(name): one[name].item() for name in one.coords if name != "family"}
    return {**where, "best": str(one["best"].item()), "families": scores}


def _fixed(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}" if value < 100 else f"{value:.0f}" if value < 1e5 else f"{value:.0e}"
