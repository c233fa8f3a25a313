"""`ontogeny demo`: scan, fit and report on the series that ships with the package, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ontogeny.cli.fit import fit
from ontogeny.cli.report import make_report

SEQUENCES = 32


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the scan and the report.")] = Path("demo"),
) -> int:
    """Watch attention sinks emerge: scan the embedded series, fit its curves, write the report."""
    from ontogeny.cli.progress import DrawnProgress
    from ontogeny.dynamics.scan import scan

    folder = out / "pocket"
    with DrawnProgress() as progress:
        scan("pocket", folder, sequences=SEQUENCES, progress=progress)
    fit(folder)
    page = make_report(folder, out / "report.html")
    typer.echo(f"\nthe report is in {page.resolve()}")
    return 0
