"""`ontogeny predict`: what to expect of an architecture before there is a model of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ontogeny.cli.options import Json
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

    from ontogeny.archspec import ArchSpec

HEADINGS = {
    "layer": "layer",
    "regime": "regime",
    "peak_step": "peak step",
    "peak_value": "peak",
    "final_value": "end",
    "low": "low",
    "high": "high",
}
Like = Annotated[
    str | None, typer.Option(help="A source whose config to read: Hub id, folder, or pocket.", metavar="SOURCE")
]
Layers = Annotated[int | None, typer.Option(help="Number of blocks.")]
Width = Annotated[int | None, typer.Option(help="Width of the residual stream.")]
Heads = Annotated[int | None, typer.Option(help="Attention heads in a block.")]
Ffn = Annotated[int | None, typer.Option(help="Width of the MLP (default: 4 widths).")]
Layer = Annotated[int | None, typer.Option(help="One layer, from 0 (default: all).")]
Metric = Annotated[str, typer.Option(help="massive_ratio or top_activation.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the curves into this HTML file.", metavar="FILE")]


def predict(
    like: Like = None,
    layers: Layers = None,
    width: Width = None,
    heads: Heads = None,
    ffn: Ffn = None,
    layer: Layer = None,
    metric: Metric = "massive_ratio",
    plot: Plot = None,
    as_json: Json = False,
) -> int:
    """Predict emergence curves from an architecture's numbers alone: no weights are read."""
    from ontogeny.fitting.architecture import predict as run_predict

    if plot is not None and not plot.parent.is_dir():
        raise UsageError(f"expected --plot FILE in a folder that is there, got {plot}: make {plot.parent} first")
    spec = _specification(like, {"layers": layers, "width": width, "heads": heads, "ffn": ffn})
    found = run_predict(spec, layer, metric)
    if plot is not None:
        from ontogeny.plots import predicted

        plot.write_text(predicted(found).to_html(include_plotlyjs=True), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(_plain(found)))
        return 0
    _print(found)
    if plot is not None:
        typer.echo(f"the plot is in {plot}")
    return 0


def _specification(like: str | None, numbers: dict[str, int | None]) -> ArchSpec | dict[str, int | None]:
    given = [name for name, value in numbers.items() if value is not None]
    if like is not None and given:
        raise UsageError(f"expected --like or numbers, got --like and --{', --'.join(given)}")
    if like is not None:
        from ontogeny.dynamics.sources import open_series

        return open_series(like).arch
    lacking = [name for name in ("layers", "width", "heads") if numbers[name] is None]
    if lacking:
        raise UsageError(
            f"expected --like SOURCE, or --layers, --width and --heads; --{', --'.join(lacking)} not given"
        )
    return numbers


def _print(found: xr.Dataset) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    attributes = found.attrs
    table = Table(title=escape(f"{attributes['metric']}, predicted"), title_justify="left")
    for name, heading in HEADINGS.items():
        table.add_column(heading, justify="left" if name == "regime" else "right", no_wrap=True)
    for row in _rows(found):
        table.add_row(*(_cell(row[name]) for name in HEADINGS))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    last = float(found["step"].values[-1])
    console.print(
        f"low, high: {attributes['level']:.0%} interval at the end, step {last:,.0f}; measured coverage "
        f"{escape(attributes['measured_coverage'])}"
    )
    console.print(f"predictor: {escape(attributes['score'])}")
    if "tokens_a_step" in attributes:
        console.print(f"steps of {attributes['tokens_a_step']:,} tokens, as in training")
    if attributes["warning"]:
        console.print(f"[bold]warning:[/] unlike the training models: {escape(attributes['warning'])}")


def _rows(found: xr.Dataset) -> list[dict[str, Any]]:
    end = found.isel(step=-1)
    names = ("regime", "peak_step", "peak_value", "final_value")
    rows = []
    for depth in range(found.sizes["depth"]):
        row = {name: end[name].values[depth] for name in names}
        row = {name: value if isinstance(value, str) else float(value) for name, value in row.items()}
        ends = {"low": float(end["predicted_low"][depth]), "high": float(end["predicted_high"][depth])}
        rows.append({"layer": int(end["layer"].values[depth]), **row, **ends})
    return rows


def _plain(found: xr.Dataset) -> dict[str, Any]:
    """Everything, for machines; None where there is no peak."""
    curves = []
    for place, row in enumerate(_rows(found)):
        own = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        series = {name: found[name].values[place].tolist() for name in ("predicted", "predicted_low", "predicted_high")}
        parameters = {name: float(found[name][place]) for name in ("A1", "A2", "K", "beta", "tau0")}
        curves.append({**own, **parameters, **series})
    attributes = {**found.attrs, "arch": json.loads(found.attrs["arch"])}
    attributes["error_of_model"] = json.loads(attributes["error_of_model"])
    return {**attributes, "steps": found["step"].values.tolist(), "curves": curves}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
