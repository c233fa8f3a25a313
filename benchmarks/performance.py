"""Writes the measured tables of docs/performance.md from benchmarks/results/*.json, as `ontogeny bench --json` prints.

ontogeny bench --json > benchmarks/results/<machine>.json
python benchmarks/performance.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ontogeny.bench.record import shown

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python benchmarks/performance.py -->", "<!-- end of tables -->"


def main() -> None:
    """Replace what stands between the marks."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}{END}{after}")


def tables() -> str:
    """Markdown: for every machine a table of each case."""
    return "".join(_machine(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json")))


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("torch", "transformers", "python", "cuda") if name in machine
    )
    lines = [
        f"### {machine['device']}, {machine['threads']} threads",
        "",
        f"{versions}; medians of {found['repeats']} interleaved rounds.",
        "",
        "| case | | ms | quartiles | ratio | MiB | of bound |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    case = None
    for record in found["records"]:
        first = record["case"] if record["case"] != case else ""
        case = record["case"]
        if not record["note"]:
            low, high = record["quartiles"]
            share = "" if record["bound_share"] is None else f"{record['bound_share']:.0%}"
            times = f"{shown(record['milliseconds'])} | {shown(low)}-{shown(high)} | {record['ratio']:.2f}"
            numbers = f"{times} | {record['peak_mib']:.0f} | {share}"
            lines.append(f"| {first} | {record['contender']} | {numbers} |")
    missing = {f"{record['contender']} ({record['note']})" for record in found["records"] if record["note"]}
    if missing:
        lines += ["", f"Not measured: {'; '.join(sorted(missing))}."]
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    main()
