"""`ontogeny fit`: emergence curves of a stored scan, as a table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ontogeny.cli.scan import Json

if TYPE_CHECKING:
    import xarray as xr

SHOWN = ("verdict", "regime", "r2", "peak_step", "final_value")
Folder = Annotated[Path, typer.Argument(help="Folder of a scan.", metavar="DIR")]
Metric = Annotated[str, typer.Option(help="The variable whose emergence to fit.")]


def fit(folder: Folder, metric: Metric = "massive_ratio", as_json: Json = False) -> int:
    """Fit the emergence curve at every depth, layer or head of the scan in DIR."""
    from rich.console import Console
    from rich.table import Table

    from ontogeny.dynamics.opening import open_scan
    from ontogeny.fitting import fit as run_fit

    fits = run_fit(open_scan(folder), metric)
    rows = _rows(fits)
    if as_json:
        typer.echo(json.dumps({"metric": metric, "fits": rows}))
        return 0
    places = [name for name in rows[0] if name in fits.dims]
    table = Table(title=f"{metric} of {fits.attrs['series']}: {fits.attrs['definition']}", title_justify="left")
    for name in (*places, *SHOWN):
        table.add_column(name.replace("_", " "), justify="left" if name in ("verdict", "regime") else "right")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in (*places, *SHOWN)))
    Console(highlight=False).print(table)
    return 0


def _rows(fits: xr.Dataset) -> list[dict[str, Any]]:
    """A record for each curve: where it is, and every number of its fit; None where there is none."""
    frame = fits.drop_vars("observed").drop_dims("checkpoint", errors="ignore").to_dataframe().reset_index()
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
