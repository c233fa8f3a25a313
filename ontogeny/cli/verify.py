"""`ontogeny verify`: published numbers of models on the Hub, measured again, and the two side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isinf
from typing import TYPE_CHECKING, Annotated

import typer

from ontogeny.cli.errors import SOME_FAILED
from ontogeny.cli.options import Json
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ontogeny.dynamics.verify.compare import Row
    from ontogeny.dynamics.verify.published import Figure, Value

BYTES_OF_FLOAT32 = 4


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models, by name or Hub id. Without any they are listed.", metavar="[NAMES]..."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Only this table: sinks, massive, ratio or ablation. (default: all)")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All models, the largest too.")] = False,
    sequences: Annotated[int | None, typer.Option(help="How many sequences. (default: as published)", min=1)] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in each. (default: as published)", min=2)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    as_json: Json = False,
) -> int:
    """Measure published numbers again on the models named, which are downloaded, and print both side by side."""
    from ontogeny.dynamics.verify.published import select

    if names and every:
        raise UsageError("expected names of models or --all, got both")
    figures = select(names or None, table)
    if not names and not every:
        _list(figures, as_json)
        return 0
    from rich.console import Console

    from ontogeny.dynamics.verify.run import verify as run_verify

    progress = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    rows = run_verify(figures, sequences=sequences, length=length, device=device, dtype=dtype, say=progress.print)
    if as_json:
        typer.echo(json.dumps({"rows": [row.to_dict() for row in rows]}, allow_nan=False))
    else:
        _show(rows)
    return SOME_FAILED if any(row.reason is not None for row in rows) else 0


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, emoji=False, markup=False)


def _list(figures: Sequence[Figure], as_json: bool) -> None:
    """The models with what they would need; nothing is asked of the network."""
    from rich import box
    from rich.table import Table

    from ontogeny.dynamics.verify.published import TABLES, models

    tables = {one: list(dict.fromkeys(f.table for f in figures if f.model == one)) for one in models(figures)}
    if as_json:
        listed = [
            {
                "model": one.name,
                "hub_id": one.hub_id,
                "revision": one.revision,
                "tables": of_it,
                "float32_gb": round(BYTES_OF_FLOAT32 * one.size, 3),
                "gated": one.gated,
            }
            for one, of_it in tables.items()
        ]
        typer.echo(json.dumps({"tables": TABLES, "models": listed}))
        return
    console = _console()
    shown = Table(title="models with published numbers", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("model", no_wrap=True)
    shown.add_column("on the Hub", no_wrap=True)
    shown.add_column("tables")
    shown.add_column("GB", justify="right", no_wrap=True)
    for one, of_it in tables.items():
        size = BYTES_OF_FLOAT32 * one.size
        shown.add_row(
            one.name,
            one.hub_id,
            ", ".join(of_it),
            (f"{size:,.0f}" if size >= 10 else f"{size:.2g}") + ("*" if one.gated else " "),
        )
    console.print(shown)
    for name in dict.fromkeys(figure.table for figure in figures):
        console.print(f"{name}: {TABLES[name]}")
    console.print("GB: weights in float32, by the nominal number of parameters; a download may be less")
    console.print("*: the Hub asks for an accepted licence and a token (HF_TOKEN)")
    console.print("next: ontogeny verify NAMES, which downloads those models (docs/verify.md)")


def _show(rows: Sequence[Row]) -> None:
    """A table for each published table, and below them the notes, each once."""
    from ontogeny.dynamics.verify.published import TABLES

    notes: dict[str, int] = {}
    for row in rows:
        for note in row.notes():
            notes.setdefault(note, len(notes) + 1)
    console = _console()
    for name in TABLES:
        mine = [row for row in rows if row.figure.table == name]
        if mine:
            console.print(_table(name, mine, notes))
    if any(row.beyond for row in rows):
        console.print(f"* beyond our own tolerance, no paper's: {_tolerances(rows)}")
    for note, number in notes.items():
        console.print(f"{number:>3}  {note}", soft_wrap=not console.is_terminal)


def _table(name: str, rows: Sequence[Row], notes: dict[str, int]) -> Table:
    from rich import box
    from rich.table import Table

    from ontogeny.dynamics.verify.published import TABLES

    title = f"{name}: {TABLES[name]}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("quantity", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for heading in ("published", "ours", "off by"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("notes", min_width=5)
    for row in rows:
        figure = row.figure
        table.add_row(
            figure.quantity.label,
            figure.model.name,
            _value(figure.value),
            "not measured" if row.reason is not None else _value(row.ours),
            _difference(row),
            _ranges(sorted(notes[note] for note in row.notes())),
        )
    return table


def _value(value: Value | None) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if not isinstance(value, float):
        return str(value)
    if isinf(value):
        return "infinite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def _difference(row: Row) -> str:
    if row.reason is not None:
        return "-"
    mark = "*" if row.beyond else ""
    if row.difference is None:
        return "other" + mark if mark else "same"
    by = row.figure.quantity.by
    if by == "ratio":
        return f"x {row.difference:.3g}{mark}"
    return f"{row.difference:+.2f}{mark}" if by == "points" else f"{row.difference:+d}{mark}"


def _tolerances(rows: Sequence[Row]) -> str:
    """The tolerance of each kind of difference that is marked."""
    from ontogeny.dynamics.verify.compare import TOLERANCES

    said = {
        f"{one.figure.table} {TOLERANCES[one.figure.table]:g} points"
        if one.figure.quantity.by == "points"
        else f"{one.figure.table} a factor of {1 + TOLERANCES[one.figure.table]:g}"
        if one.figure.quantity.by == "ratio"
        else "blocks and dimensions none"
        for one in rows
        if one.beyond
    }
    return ", ".join(sorted(said))


def _ranges(numbers: Sequence[int]) -> str:
    """`1-3, 5` of 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
