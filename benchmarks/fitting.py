"""How long fits take: 188 series, as many as Pythia has blocks, at 37 and at Pythia's 154 steps.

python benchmarks/fitting.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from recovery import LEVEL, NOISE, Sample

from ontogeny.fitting import fit_curve, fit_curves

SERIES, REPEATS = 188, 3
PYTHIA = np.array([0, *2 ** np.arange(10), *range(1000, 143_001, 1000)], dtype=float)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Medians of the wall clock and of the processors' time."""
    walls, busy = [], []
    for _ in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        busy.append(time.process_time() - processor)
    return statistics.median(walls), statistics.median(busy)


def main() -> None:
    """Print the table."""
    sample = Sample.draw(SERIES, seed=1)
    print("| series | steps | | s | s of processor |\n| ---: | ---: | --- | ---: | ---: |")
    for steps in (sample.steps, PYTHIA):
        clean = np.stack([curve(steps) for curve in sample.curves])
        noise = np.random.default_rng(0).normal(size=clean.shape)
        values = clean + NOISE * np.ptp(clean, axis=1, keepdims=True) * noise
        for count, what, call in (
            (SERIES, "fit", lambda t=steps, y=values: fit_curves(t, y)),
            (SERIES, "with intervals", lambda t=steps, y=values: fit_curves(t, y, level=LEVEL)),
            (1, "fit", lambda t=steps, y=values: fit_curve(t, y[0])),
            (1, "with intervals", lambda t=steps, y=values: fit_curve(t, y[0], level=LEVEL)),
        ):
            wall, processor = seconds(call)
            print(f"| {count} | {steps.size} | {what} | {wall:.2f} | {processor:.2f} |")


if __name__ == "__main__":
    main()
