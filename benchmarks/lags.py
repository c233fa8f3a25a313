"""Do clusters change when sinks and massive activations appear: `pocket`'s training, watched closely.

python benchmarks/lags.py --out FOLDER      # trained anew to step 600, measured every 4 steps; docs/metastability.md
python benchmarks/lags.py --trials          # how often the test is wrong, and how often right, on made-up series
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import ontogeny
from ontogeny.dynamics import backcopy, pocket
from ontogeny.fitting.correlation import correlate

LAST, EVERY, SEQUENCES = 600, 4, 32
PROBES = ("sinks", "massive", "clusters")
PAIRS, REPLICATES, RELATED, LAGS = 400, 199, 0.8, range(-3, 4)
CHANGES, PHIS = (12, 19, 30, 60, 150), (0.0, 0.5, 0.8)


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


def trials() -> str:
    """Markdown: pairs of AR(1) series of changes, unrelated and related at lag 0."""
    heads = "| changes | autocorrelation | rejected, unrelated | covered | rejected, r = 0.8 |"
    lines = [heads, "| ---: | ---: | ---: | ---: | ---: |"]
    for count in CHANGES:
        for phi in PHIS:
            rng = np.random.default_rng(count)
            driver, other = (autoregressive(rng, phi, count) for _ in range(2))
            related = RELATED * driver + np.sqrt(1 - RELATED**2) * other
            wrong, covered, right = 0, 0, 0
            for one, unrelated, response in zip(driver, other, related, strict=True):
                found = correlate(one, np.stack([unrelated, response]), LAGS, 0.95, REPLICATES)
                wrong += found.p_value[0].min() <= 0.05
                covered += found.low[0, len(LAGS) // 2] <= 0 <= found.high[0, len(LAGS) // 2]
                right += found.p_value[1].min() <= 0.05
            shares = " | ".join(f"{number / PAIRS:.2f}" for number in (wrong, covered, right))
            lines.append(f"| {count} | {phi:g} | {shares} |")
    return "\n".join(lines)


def autoregressive(rng: np.random.Generator, phi: float, count: int) -> np.ndarray:
    """Stationary AR(1) series of variance 1, (PAIRS, count)."""
    values = rng.normal(size=(PAIRS, count))
    for t in range(1, count):
        values[:, t] = phi * values[:, t - 1] + np.sqrt(1 - phi**2) * values[:, t]
    return values


def main() -> None:
    """Train, measure, and print the lagged correlations; or try the test itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--out", type=Path, help="folder for the scan")
    asked.add_argument("--trials", action="store_true", help="made-up series instead")
    given = parser.parse_args()
    if given.trials:
        print(trials())
        return
    found = ontogeny.lags(watch(given.out))
    print(found[["correlation", "correlation_low", "correlation_high", "p_value"]].to_dataframe().to_string())


if __name__ == "__main__":
    main()
