"""Do clusters change when sinks and massive activations appear: `pocket`'s training, watched closely.

python benchmarks/lags.py --out FOLDER      # trained anew to step 600, measured every 4 steps; docs/metastability.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import ontogeny
from ontogeny.dynamics import backcopy, pocket

LAST, EVERY, SEQUENCES = 600, 4, 32
PROBES = ("sinks", "massive", "clusters")


def watch(out: Path) -> ontogeny.Scan:
    """The scan of the training, kept in `out`."""
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "task.jsonl"
        sequences = backcopy.sample(SEQUENCES, backcopy.LENGTH)
        corpus.write_text("".join(json.dumps({"ids": ids.tolist()}) + "\n" for ids in sequences))
        observer = ontogeny.Observer(
            out, steps=f"0:{LAST}:{EVERY}", probes=PROBES, corpus=str(corpus), sequences=SEQUENCES, name="pocket"
        )
        with pocket.reproducible():
            for step, model, _ in pocket.training(pocket.SHIPPED_RECIPE, LAST):
                observer(model, step)
    return observer.scan


def main() -> None:
    """Train, measure, and print the lagged correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the scan")
    found = ontogeny.lags(watch(parser.parse_args().out))
    print(found[["correlation", "correlation_low", "correlation_high", "p_value"]].to_dataframe().to_string())


if __name__ == "__main__":
    main()
