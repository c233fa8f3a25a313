"""`ontogeny audit`: are the checkpoints of a series what they say they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ontogeny.cli.errors import SOME_FAILED
from ontogeny.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from ontogeny.dynamics.audit import Audit, Entry

SHORT = 24
UNITS = ("B", "kB", "MB", "GB", "TB")


def audit(
    source: Annotated[
        str, typer.Argument(help="What scan takes: Hub id, folder, file, pocket; or the folder of a scan.")
    ],
    as_json: Json = False,
) -> int:
    """Compare the checkpoints of SOURCE with each other, without downloading one; of a scan, their weights too."""
    from rich.console import Console

    from ontogeny.dynamics.audit.source import audit as run_audit

    found = run_audit(source)
    code = SOME_FAILED if found.flags or any(entry.failed for entry in found.evidence.unlisted()) else 0
    if as_json:
        typer.echo(json.dumps(_record(found)))
        return code
    console = Console(highlight=False, emoji=False, markup=False)
    console.print(_table(found))
    for line in _remarks(found):
        console.print(line, soft_wrap=not console.is_terminal)
    return code


def _record(found: Audit) -> dict[str, Any]:
    values = found.evidence.to_dict()
    for entry in values["entries"]:
        entry |= {"verdict": found.verdict(entry["name"]), "flags": dict(found.flags.get(entry["name"], {}))}
    return {
        "source": values["source"],
        "checkpoints": values["entries"],
        "main": values["main"],
        "findings": list(found.findings),
    }


def _table(found: Audit) -> Table:
    """The checkpoints; of a long series only those that are flagged or could not be listed, and how many others."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"audit of {found.evidence.source}"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("checkpoint", overflow="fold")
    table.add_column("stored", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    entries = sorted(found.evidence.entries, key=lambda entry: entry.step)
    shown = [entry for entry in entries if entry.name in found.flags or entry.failed]
    if len(entries) <= SHORT:
        shown = entries
    for entry in shown:
        why = found.reason(entry.name) or ("not listed" if entry.failed else "")
        style = "red" if entry.name in found.flags else "yellow" if entry.failed else ""
        cells = (entry.name, _stored(entry), found.verdict(entry.name).replace(", ", "\n"), why)
        table.add_row(*(Text(cell) for cell in cells), style=style)
    folded = [found.verdict(entry.name) for entry in entries if entry not in shown]
    for verdict in sorted(set(folded)):
        table.add_row(f"{folded.count(verdict)} others", "", verdict, "")
    return table


def _remarks(found: Audit) -> Iterator[str]:
    """What is to say below the table: the findings, and what could not be checked and why."""
    for finding in found.findings:
        yield f"finding: {finding}"
    problems: dict[str, list[str]] = {}
    for entry in found.evidence.unlisted():
        problems.setdefault(entry.problem, []).append(entry.name)
    for problem, names in problems.items():
        yield f"not checked: the files of {', '.join(names[:3])}{_more(len(names) - 3)}: {problem}"
    rest = [entry.name for entry in found.evidence.entries if entry.name not in found.measured]
    if not found.measured:
        yield "not checked: the weights themselves; scan the series, then audit the scan's folder (docs/audit.md)"
    elif rest:
        yield f"not checked: the weights of {len(rest)} checkpoints that were not measured"
    if found.flags:
        yield f"{len(found.flags)} of {len(found.evidence.entries)} flagged: a fit leaves them out (docs/audit.md)"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _stored(entry: Entry) -> str:
    if entry.size is None:
        return "-"
    size, unit = float(entry.size), 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return " ".join(filter(None, [entry.dtype, f"{size:.3g} {UNITS[unit]}"]))
