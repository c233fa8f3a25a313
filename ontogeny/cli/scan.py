"""`ontogeny scan`: measure every checkpoint of a series into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ontogeny.cli.errors import SOME_FAILED
from ontogeny.cli.options import Json
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

SHOWN = 3


def scan(
    source: Annotated[
        str,
        typer.Argument(help="Hub id, folder of checkpoints, one checkpoint's folder or file, smollm2, or pocket."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to keep the scan in; a scan that is there is gone on with.")],
    steps: Annotated[
        str | None, typer.Option(help="all, log, or a list with ranges: 0,1,512,1000:143000:1000. (default: by source)")
    ] = None,
    probes: Annotated[
        str | None,
        typer.Option(
            help="Which probes, separated by commas: sinks, secondary, waivers, massive (the default), contexts, "
            "walks, clusters, effective_beta, and experiments that run the model again: waiver_kinds, ablation, "
            "dormancy, random_tokens."
        ),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="A .jsonl or .txt file, builtin, random, repeated, or task. (default: by source)")
    ] = None,
    sequences: Annotated[int, typer.Option(help="How many sequences to measure on.")] = 100,
    length: Annotated[int, typer.Option(help="Tokens in each sequence.")] = 64,
    batch_size: Annotated[
        int | None, typer.Option(help="Sequences a forward pass. (default: about 4096 tokens)", min=1)
    ] = None,
    bos: Annotated[str, typer.Option(help="Special tokens: auto (the tokenizer's), always a BOS, or never.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    positions: Annotated[str, typer.Option(help="How many key positions to keep, or all.")] = "16",
    impl: Annotated[
        str, typer.Option(help="Attention by: auto, blocked (any device), triton (GPU), reference.")
    ] = "auto",
    prefetch: Annotated[int, typer.Option(help="Checkpoints to fetch and read ahead.", min=0)] = 1,
    keep: Annotated[
        str, typer.Option(help="Which of its downloads stay on disk: none, all, or the last so many.")
    ] = "all",
    as_json: Json = False,
) -> int:
    """Measure the checkpoints of SOURCE into a folder, as one labelled dataset."""
    from ontogeny.cli.progress import DrawnProgress
    from ontogeny.dynamics.scan import scan as run_scan

    with DrawnProgress() as progress:
        found = run_scan(
            source,
            out,
            steps=steps,
            probes=None if probes is None else [name.strip() for name in probes.split(",") if name.strip()],
            corpus=corpus,
            sequences=sequences,
            length=length,
            batch_size=batch_size,
            bos=bos,
            device=device,
            dtype=dtype,
            positions=_positions(positions),
            impl=impl,
            prefetch=prefetch,
            keep=keep,
            progress=progress,
        )
    measured = [str(name) for name in found.dataset.checkpoint.values]
    if as_json:
        typer.echo(json.dumps({"path": str(out), "measured": measured, "failures": found.failures}))
    else:
        typer.echo(f"measured in {out}: {len(measured)} of {found.dataset.attrs['series']}")
        if found.failures:
            typer.echo(f"failed: {', '.join(found.failures)}")
        if flagged := _flagged(found.dataset):
            typer.echo(f"flagged, so that a fit leaves them out: {flagged} (why: ontogeny audit {out})")
        typer.echo(f"next: ontogeny report {out} --out report.html")
    return SOME_FAILED if found.failures else 0


def _flagged(dataset: xr.Dataset) -> str:
    """The measured checkpoints that the audit flags: the first few, each with its flags, and how many others."""
    from ontogeny.dataset import SOUND

    verdicts = zip(dataset["checkpoint"].values, dataset["verdict"].values, strict=True)
    flagged = [f"{name} ({verdict})" for name, verdict in verdicts if verdict not in SOUND]
    return ", ".join(flagged[:SHOWN]) + (f" and {len(flagged) - SHOWN} more" if len(flagged) > SHOWN else "")


def _positions(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"expected a number of key positions or all, got {text!r}") from None
