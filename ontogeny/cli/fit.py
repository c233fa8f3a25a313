"""`ontogeny fit`: emergence curves of a stored scan, as a table."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ontogeny.cli.options import Folder, Json

if TYPE_CHECKING:
    import xarray as xr

SHOWN = ("verdict", "regime", "r2", "peak_step", "final_value")
HEADINGS = {"r2": "R²", "peak_step": "peak step", "final_value": "fitted end"}
Metric = Annotated[str, typer.Option(help="The variable whose emergence to fit.")]


def fit(folder: Folder, metric: Metric = "massive_ratio", as_json: Json = False) -> int:
    """Fit the emergence curve at every depth, layer or head of the scan in DIR."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ontogeny.dynamics.opening import open_scan
    from ontogeny.fitting import fit as run_fit

    fits = run_fit(open_scan(folder), metric)
    rows = _rows(fits)
    if as_json:
        left_out = fits.attrs.get("left_out", "")
        typer.echo(json.dumps({"metric": metric, "fits": rows, "left_out": left_out.split("; ") if left_out else []}))
        return 0
    places = [name for name in rows[0] if name in fits.dims]
    title = f"{metric} of {fits.attrs['series']}: {fits.attrs['definition']}"
    table = Table(title=escape(title), title_justify="left")
    for name in (*places, *SHOWN):
        words = name in ("verdict", "regime")
        table.add_column(HEADINGS.get(name, name), justify="left" if words else "right", no_wrap=words)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in (*places, *SHOWN)))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    if "left_out" in fits.attrs:
        count = fits.attrs["left_out_by_verdict"]
        console.print(f"left out, {count} flagged by the audit (docs/audit.md): {escape(fits.attrs['left_out'])}")
    if "not identifiable" in fits["verdict"].values:
        console.print("not identifiable: the curve fits, its parameters stay open (docs/fitting.md)")
    return 0


def _rows(fits: xr.Dataset) -> list[dict[str, Any]]:
    """A record for each curve: where it is, and every number of its fit; None where there is none."""
    curves = fits.drop_dims("checkpoint")
    frame = curves.to_dataframe(dim_order=sorted(map(str, curves.dims), reverse=True)).reset_index()
    return [
        {
            str(name): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
