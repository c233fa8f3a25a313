"""`ontogeny bench`: attention with its statistics against what one would do instead, as a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ontogeny.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from ontogeny.bench.record import Record


def bench(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="Of q, k and v. (default: float32 on a CPU, bfloat16 on a GPU)")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds, after two to warm up; medians are shown.", min=1)] = 20,
    as_json: Json = False,
) -> int:
    """Time attention with its statistics, and whole models, against what one would do instead: minutes on a CPU."""
    from rich.console import Console

    from ontogeny.bench.attention import bench_attention
    from ontogeny.bench.cases import default_cases
    from ontogeny.bench.machine import describe_machine
    from ontogeny.bench.models import ModelCase, bench_models
    from ontogeny.dynamics.loading.model import available_device, known_dtype

    where = available_device(device)
    asked = known_dtype(dtype or ("bfloat16" if where.type == "cuda" else "float32"))
    model, progress = ModelCase(), Console(stderr=True, highlight=False)

    def say(case: str) -> None:
        progress.print(f"timing {case}")

    records = bench_attention(default_cases(where, asked), where, repeats, say)
    say(str(model))
    records += bench_models(model, where, repeats)
    machine = describe_machine(where)
    if as_json:
        typer.echo(json.dumps({"machine": machine, "repeats": repeats, "records": [asdict(one) for one in records]}))
        return 0
    console = Console(highlight=False, emoji=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), soft_wrap=True)
    console.print(
        f"medians of {repeats} interleaved rounds; MiB: tensors held at once; B sequences, H query heads (/key heads), "
        "T tokens, d head size",
        soft_wrap=True,
    )
    for case in dict.fromkeys(record.case for record in records):
        console.print(_table(case, [record for record in records if record.case == case and not record.note]))
    for missing in dict.fromkeys(
        f"{record.contender}: not measured, {record.note}" for record in records if record.note
    ):
        console.print(missing, soft_wrap=True)
    return 0


def _table(case: str, records: list[Record]) -> Table:
    from rich.table import Table

    from ontogeny.bench.record import shown

    table = Table(title=case, title_justify="left", min_width=len(case))
    table.add_column("")
    bounded = any(record.bound_share is not None for record in records)
    for heading in ("ms", "quartiles", "ratio", "MiB", *(["of bound"] if bounded else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        assert record.quartiles is not None and record.milliseconds is not None
        low, high = record.quartiles
        table.add_row(
            record.contender,
            shown(record.milliseconds),
            f"{shown(low)}-{shown(high)}",
            f"{record.ratio:.2f}",
            f"{record.peak_mib:.0f}",
            *([] if not bounded else ["-" if record.bound_share is None else f"{record.bound_share:.0%}"]),
        )
    return table
