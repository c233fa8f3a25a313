"""`ontogeny events`: when sink, drain and massive activation emerge in each layer of a scan, and in which order."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import typer

from ontogeny.cli.options import Folder, Json

if TYPE_CHECKING:
    import xarray as xr

STEPS = ("step", "step_low", "step_high", "sampling_low", "sampling_high", "before", "after")


def events(folder: Folder, as_json: Json = False) -> int:
    """Print when sinks, drained values and massive activations emerge in each layer of the scan in DIR."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ontogeny.dynamics.opening import open_scan
    from ontogeny.fitting import events as find

    found = find(open_scan(folder))
    rows = _rows(found)
    if as_json:
        typer.echo(json.dumps({"definitions": dict(found.attrs), "layers": rows}))
        return 0
    names = [str(name) for name in found["event"].values]
    table = Table(title=escape(f"half way of {found.attrs['series']}"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("head", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("order")
    table.add_column("share", justify="right")
    for row in rows:
        head = f"L{row['layer']}" if row["head"] is None else f"L{row['layer']}H{row['head']}"
        table.add_row(head, *(_cell(row[name]) for name in names), row["order"], _number(row["order_confidence"]))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    console.print("share: of replicates with that order; below each step its interval (docs/fitting.md)")
    if "left_out" in found.attrs:
        count = found.attrs["left_out_by_verdict"]
        console.print(f"left out, {count} flagged by the audit (docs/audit.md): {escape(found.attrs['left_out'])}")
    return 0


def _rows(found: xr.Dataset) -> list[dict[str, Any]]:
    """A record for each layer; None for a number that there is not."""
    rows = []
    for layer in found["layer"].values:
        here = found.sel(layer=layer)
        head = int(here["head"])
        row: dict[str, Any] = {"layer": int(layer), "head": None if head < 0 else head}
        for name in found["event"].values:
            event = here.sel(event=name)
            words = {"verdict": str(event["verdict"].item()), "uncertainty": str(event["uncertainty"].item())}
            row[str(name)] = words | {step: _finite(float(event[step])) for step in STEPS}
        row |= {"order": str(here["order"].item()), "order_confidence": _finite(float(here["order_confidence"]))}
        rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(event: dict[str, Any]) -> str:
    """A step with its interval below it, or why there is none."""
    if event["step"] is None:
        return str(event["verdict"])
    low, high = event["step_low"], event["step_high"]
    return f"{_step(event['step'])}\n" + ("open" if low is None else f"{_step(low)} to {_step(high)}")


def _step(step: float) -> str:
    """A step in few characters: three digits, thousands and millions named."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if step >= 0.9995 * size:
            return f"{step / size:.3g}{unit}"
    return f"{step:.3g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
