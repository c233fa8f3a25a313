"""R^2 of the curves of Pythia's massive activations, beside those published in Table 1 of arXiv 2508.03616.

python benchmarks/pythia_table1.py           # the bundled part: `top1` of the first sequence
python benchmarks/pythia_table1.py --full    # and, of the whole release from the Hub, the ratio of means
"""

from __future__ import annotations

import argparse

import numpy as np

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.fitting import fit

PUBLISHED = {
    "14m": 0.9307,
    "70m": 0.9681,
    "160m": 0.9831,
    "410m": 0.9937,
    "1b": 0.9922,
    "1.4b": 0.9956,
    "2.8b": 0.9686,
    "6.9b": 0.9954,
    "12b": 0.9829,
}
LEAST = {"12b": 0.988, "14m": 0.967, "160m": 0.994, "1b": 0.990}  # reached by a plain sketch of variable projection


def bundled() -> dict[str, float]:
    """The mean R^2 over blocks of `top1`, sequence 0, for each size of which enough is bundled."""
    scans = ontogeny.load_pythia()
    found = {}
    for size in LEAST:
        first = scans[size].dataset.sel(sequence=[0])
        found[size] = float(fit(first, "top_activation", level=None)["r2"].mean())
    return found


def released(scans: dict[str, ontogeny.Scan]) -> dict[str, tuple[float, int]]:
    """The mean R^2 over blocks of the ratio of means, and how many blocks have a curve."""
    found = {}
    for size, scan in scans.items():
        r2 = fit(scan, level=None)["r2"].values
        known = r2[np.isfinite(r2)]
        found[size] = (float(known.mean()) if known.size else float("nan"), known.size)
    return found


def main() -> None:
    """Print both tables, or why the second cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="fetch the whole release from the Hub")
    parser.add_argument("--endpoint", help="another Hub")
    parser.add_argument("--cache", help="where the release is kept")
    options = parser.parse_args()
    print("top1 of sequence 0, bundled part: mean R^2 over blocks")
    print("| model | R^2 | at least |\n| --- | ---: | ---: |")
    for size, r2 in bundled().items():
        print(f"| {size} | {r2:.4f} | {LEAST[size]:.3f} |")
    if not options.full:
        return
    try:
        scans = ontogeny.load_pythia(full=True, cache=options.cache, endpoint=options.endpoint)
    except OntogenyError as error:
        print(f"\nthe whole release could not be had: {error}")
        return
    print("\nratio of means, whole release: mean R^2 over blocks")
    print("| model | R^2 | blocks | published |\n| --- | ---: | ---: | ---: |")
    for size, (r2, blocks) in released(scans).items():
        print(f"| {size} | {r2:.4f} | {blocks} | {PUBLISHED[size]:.4f} |")
        for name, reason in scans[size].failures.items():
            print(f"  left out: {name}: {reason}")


if __name__ == "__main__":
    main()
