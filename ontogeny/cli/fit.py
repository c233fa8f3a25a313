"""`ontogeny fit`: emergence curves of a stored scan, as a table, and how rival curves do on the same series."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ontogeny.cli.options import Folder, Json
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr
    from rich.table import Table

WIDE = 116  # columns in which a curve and its intervals fit on one line
SHOWN = {"final_value": "final value", "peak_step": "peak step", "half_rise_step": "half-rise step"}
Metric = Annotated[str, typer.Option(help="The variable whose emergence to fit.")]
Against = Annotated[str, typer.Option(help="Compare with other families of curves.", metavar="rivals")]
Weights = Annotated[
    str, typer.Option(help="Points count alike, or by their spread over sequences.", metavar="equal|sequences")
]
Loss = Annotated[str, typer.Option(help="What is minimised; huber resists outliers.", metavar="squares|huber")]
Bootstrap = Annotated[int, typer.Option(help="Intervals from this many fits on sequences drawn anew.", min=0)]
Level = Annotated[float, typer.Option(help="Confidence level of the intervals.")]


def fit(
    folder: Folder,
    metric: Metric = "massive_ratio",
    against: Against = "",
    weights: Weights = "equal",
    loss: Loss = "squares",
    bootstrap: Bootstrap = 0,
    level: Level = 0.95,
    as_json: Json = False,
) -> int:
    """Fit the emergence curve at every depth, layer or head of the scan in DIR."""
    from rich.console import Console

    from ontogeny.cli.rivals import rival_lines, rival_record, rival_table
    from ontogeny.dynamics.opening import open_scan
    from ontogeny.fitting import compare_rivals
    from ontogeny.fitting import fit as run_fit

    if against not in ("", "rivals"):
        raise UsageError(f"expected --against rivals, got --against {against}")
    options: dict[str, Any] = {"level": level, "weights": weights, "loss": loss, "bootstrap": bootstrap}
    fits = run_fit(open_scan(folder), metric, **options)
    compared = compare_rivals(fits) if against else None
    if as_json:
        left_out = fits.attrs.get("left_out", "")
        record = {"metric": metric, **options, "fits": records(fits)}
        record["left_out"] = left_out.split("; ") if left_out else []
        if compared is not None:
            record["rivals"] = rival_record(compared)
        typer.echo(json.dumps(record))
        return 0
    console = Console(highlight=False, emoji=False, markup=False)
    console.print(_table(fits, "_boot" if bootstrap else "", wide=console.width >= WIDE))
    for line in _remarks(fits, bootstrap, level):
        console.print(line)
    if compared is not None:
        console.print()
        console.print(rival_table(compared))
        for line in rival_lines(compared):
            console.print(line)
    return 0


def records(fits: xr.Dataset) -> list[dict[str, Any]]:
    """A record for each curve: where it is, and every number of its fit; None where there is none, or an end is open.

    `left_open` lists the quantities of which the data leave an end open.
    """
    curves = fits.drop_dims("checkpoint")
    frame = curves.to_dataframe(dim_order=sorted(map(str, curves.dims), reverse=True)).reset_index()
    rows = [
        {
            str(name): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]
    return [{**row, "left_open": row["left_open"].split(", ") if row["left_open"] else []} for row in rows]


def number(value: float | None) -> str:
    """Three significant digits, more of a large number, without an exponent where that is short."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _table(fits: xr.Dataset, kind: str, wide: bool) -> Table:
    """One line a curve where that is `wide` enough, otherwise intervals and verdict on a second."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = records(fits)
    places = [name for name in rows[0] if name in fits.dims]
    title = f"{fits.attrs['metric']} of {fits.attrs['series']}: {fits.attrs['definition']}"
    padding = (0, 1) if wide else (0, 1, 0, 0)
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=padding)
    for name in places:
        table.add_column(name, justify="right")
    for name in ("regime", "verdict") if wide else ("regime, verdict",):
        table.add_column(name, no_wrap=True)
    for name in ("R²", *SHOWN.values()):
        table.add_column(name, justify="right", no_wrap=wide)
    for row in rows:
        words = (row["regime"], row["verdict"]) if wide else ("\n".join((row["regime"], row["verdict"])),)
        cells = (_with_interval(row, name, kind, " " if wide else "\n") for name in SHOWN)
        r2 = "-" if row["r2"] is None else f"{row['r2']:.3f}"
        table.add_row(*(Text(str(cell)) for cell in (*(row[name] for name in places), *words, r2, *cells)))
    return table


def _with_interval(row: dict[str, Any], name: str, kind: str, between: str) -> str:
    low, high = row.get(f"{name}{kind}_low"), row.get(f"{name}{kind}_high")
    opened = not kind and name in row["left_open"]
    if low is None and high is None and not opened:
        return number(row[name])
    if opened and name.endswith("_step") and low == 0:
        low = None
    ends = ", ".join("open" if end is None else number(end) for end in (low, high))
    return f"{number(row[name])}{between}[{ends}]"


def _remarks(fits: xr.Dataset, bootstrap: int, level: float) -> list[str]:
    lines = []
    means = f"bootstrap over sequences, {bootstrap} times" if bootstrap else "profile likelihood"
    lines.append(f"[ ]: {level:.3g} confidence, {means}; open: no end in the data")
    if 0 < bootstrap * (1 - level) < 2:
        lines.append(
            f"{bootstrap} replicates are too few for {level:.3g}: these ends lie about at their lowest and highest; "
            f"--bootstrap {math.ceil(2 / (1 - level) - 1e-9)} or more"
        )
    if "left_out" in fits.attrs:
        count = fits.attrs["left_out_by_verdict"]
        lines.append(f"left out, {count} flagged by the audit (docs/audit.md): {fits.attrs['left_out']}")
    if "not identifiable" in fits["verdict"].values:
        lines.append("not identifiable: the curve fits, its parameters stay open (docs/fitting.md)")
    return lines
