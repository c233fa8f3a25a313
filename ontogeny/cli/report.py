"""`ontogeny report`: a stored scan as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ontogeny.cli.options import Folder

Page = Annotated[Path, typer.Option(help="The HTML file to write.", metavar="FILE.html")]


def report(folder: Folder, out: Page) -> int:
    """Write the scan in DIR as one HTML file that opens without a network."""
    typer.echo(f"the report is in {make_report(folder, out)}")
    return 0


def make_report(folder: Path, out: Path) -> Path:
    """Open the scan in `folder`, fit its massive ratios where it has them, and write its report to `out`."""
    from ontogeny.dynamics.opening import open_scan
    from ontogeny.fitting import fit
    from ontogeny.plots import write_report

    scan = open_scan(folder)
    fits = fit(scan) if "massive_ratio" in scan.dataset else None
    return write_report(scan, fits, out, list(scan.failures.items()))
