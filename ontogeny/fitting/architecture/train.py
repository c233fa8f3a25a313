"""Train the predictor that ships, from every measured curve at hand.

python -m ontogeny.fitting.architecture.train --out ontogeny/data/predictor.json --page docs/predictor.md

The whole published release is taken where the Hub can be reached, the bundled part of it otherwise or with `--bundled`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics.published import load_pythia
from ontogeny.errors import OntogenyError
from ontogeny.fitting.architecture.measured import FLOORS, measured_curves
from ontogeny.fitting.architecture.stored import dumped
from ontogeny.fitting.architecture.tables import page
from ontogeny.fitting.architecture.training import SPLITS, tabulated, train

if TYPE_CHECKING:
    from ontogeny.dynamics.opening import Scan

BEGIN, END = "<!-- tables: python -m ontogeny.fitting.architecture.train -->", "<!-- end of tables -->"


def main(arguments: list[str] | None = None) -> None:
    """Train on every metric, write the file, and the tables of the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--page", type=Path, help="the card whose tables to write")
    parser.add_argument("--bundled", action="store_true", help="take the bundled part, ask no Hub")
    asked = parser.parse_args(arguments)
    scans, data = measurements(asked.bundled)
    trained, pages = {}, []
    for metric in FLOORS:
        curves, left_out = measured_curves(scans, metric)
        models = [model.with_fits() for model in curves]
        tables = [tabulated(models, metric, split) for split in SPLITS]
        told = data + "".join(f" {name} is left out: {why}." for name, why in left_out.items())
        trained[metric] = train(models, metric, told, tables[0].scores)
        pages.append(page(metric, models, tables, trained[metric]))
    asked.out.write_text(dumped(trained), encoding="utf-8")
    if asked.page:
        write_tables(asked.page, "\n\n".join(pages))


def measurements(bundled: bool) -> tuple[dict[str, Scan], str]:
    """The scans to train on by name, and what they are in words."""
    if not bundled:
        try:
            return _named(load_pythia(full=True)), "The whole release of arXiv 2508.03616."
        except OntogenyError as error:
            print(f"note: {error}; trained on the bundled part", file=sys.stderr)
    return _named(load_pythia()), "The bundled part of the release of arXiv 2508.03616."


def write_tables(card: Path, tables: str) -> None:
    """Put `tables` between the marks of `card`. Raises OntogenyError where it has none."""
    text = card.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise OntogenyError(f"expected {card} to hold the lines {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def _named(scans: dict[str, Scan]) -> dict[str, Scan]:
    return {f"pythia-{size}": scan for size, scan in scans.items()}


if __name__ == "__main__":
    main()
