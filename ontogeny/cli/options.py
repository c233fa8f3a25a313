"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="Folder of a scan.", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print the result for machines.")]
