"""Predictors of emergence curves on models left out, and, with the whole release, beside the published scores.

python benchmarks/predictor.py            # the bundled curves
python benchmarks/predictor.py --full     # the whole release from the Hub

Tuning is by cross-validation inside each training side. The published scores are test R^2 of the best of several
predictors for each parameter, from random splits over the layers of nine models (arXiv 2508.03616, Table 3), so that
the layers of one model are on both sides: that split is repeated here for comparison, and leaves the headline to models
left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ontogeny.dynamics.published import load_pythia
from ontogeny.fitting.architecture import PREDICTORS, measured_curves, tabulated
from ontogeny.fitting.architecture.folds import random_split
from ontogeny.fitting.architecture.parameters import PARAMETERS
from ontogeny.fitting.architecture.registry import PARAMETRIC
from ontogeny.fitting.architecture.tables import markdown, score_table
from ontogeny.fitting.architecture.validation import parameter_r2

TABLE_3 = {"A": 0.476, "lambda": 0.664, "gamma": 0.055, "t0": 0.447, "K": 0.847}
MODELS = 9


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="massive_ratio")
    parser.add_argument("--predictors", default=",".join(PREDICTORS), help="names, with commas between")
    parser.add_argument("--full", action="store_true", help="the whole release, fetched from the Hub once")
    parser.add_argument("--cache", type=Path, help="where the release is kept")
    parser.add_argument("--endpoint", help="another address of the Hub")
    asked = parser.parse_args(arguments)
    names = [name.strip() for name in asked.predictors.split(",")]
    unknown = [name for name in names if name not in PREDICTORS]
    if unknown:
        parser.error(f"expected predictors among {', '.join(PREDICTORS)}; got {', '.join(unknown)}")
    scans = load_pythia(full=asked.full, cache=asked.cache, endpoint=asked.endpoint)
    found, left_out = measured_curves(scans, asked.metric)
    models = [model.with_fits() for model in found]
    curves = sum(len(model.layers) for model in models)
    print(f"{asked.metric}: {curves} curves of {len(models)} models; errors in units of each measured curve's range\n")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}\n")
    for split in ("leave one model out", "random"):
        print(score_table(tabulated(models, asked.metric, split, names)) + "\n")
    if asked.full and len(models) == MODELS:
        parametric = [name for name in names if name in PARAMETRIC]
        rows = [["R^2, random split", *PARAMETERS], ["published, the best", *(str(one) for one in TABLE_3.values())]]
        for name in parametric:
            rows.append([name, *(f"{one:.3f}" for one in parameter_r2(PREDICTORS[name], models, random_split))])
        print(markdown(rows))


if __name__ == "__main__":
    main()
