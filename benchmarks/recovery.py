"""How well curves of emergence are recovered from noisy series, and how often their intervals hold the truth.

python benchmarks/recovery.py            # the table of docs/fitting.md
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ontogeny.fitting import EmergenceCurve, EmergenceFit, fit_curves

LAST, POINTS = 143_000, 37
NOISE = 0.05  # of a curve's range
LEVEL = 0.95
NEGATIVE = 0.14  # of the curves have A < 0, as of the published figures
QUANTITIES = ("final_value", "peak_value", "peak_step", "half_rise_step", "K", "A", "lambda_", "gamma", "t0")


@dataclass(frozen=True)
class Sample:
    """Curves, what they are at `steps` (n,), and that with noise, (m, n) each."""

    steps: np.ndarray
    curves: list[EmergenceCurve]
    clean: np.ndarray
    noisy: np.ndarray

    @classmethod
    def draw(cls, count: int, seed: int) -> Sample:
        """Curves over the ranges of published parameters, at 0 and 36 steps that are evenly spaced in the logarithm."""
        rng = np.random.default_rng(seed)
        steps = log_spaced(LAST, POINTS)
        curves = [
            EmergenceCurve.from_original(
                A=rng.uniform(0.1, 1) * (-1 if rng.uniform() < NEGATIVE else 1),
                lambda_=rng.uniform(0.02, 0.6),
                gamma=10 ** rng.uniform(-5, -2),
                t0=10 ** rng.uniform(-2, 0.5),
                K=rng.uniform(-1, 1),
            )
            for _ in range(count)
        ]
        clean = np.stack([curve(steps) for curve in curves])
        noisy = clean + NOISE * np.ptp(clean, axis=1, keepdims=True) * rng.normal(size=clean.shape)
        return cls(steps, curves, clean, noisy)

    def error(self, fits: list[EmergenceFit]) -> np.ndarray:
        """The root mean square distance of each fit from its truth, over the noise's standard deviation."""
        fitted = np.stack([np.full_like(self.steps, np.nan) if f.curve is None else f.curve(self.steps) for f in fits])
        return np.sqrt(((fitted - self.clean) ** 2).mean(axis=1)) / (NOISE * np.ptp(self.clean, axis=1))


def log_spaced(last: int, points: int) -> np.ndarray:
    """0 and distinct whole steps up to `last`, evenly spaced in the logarithm where whole steps can be."""
    asked = points - 1
    while (steps := np.unique(np.geomspace(1, last, asked).round())).size < points - 1:
        asked += 1
    return np.concatenate([[0.0], steps])


def truth(curve: EmergenceCurve, name: str) -> float | None:
    """A quantity of the curve that made the values, None where it has none."""
    peak, published = curve.peak_step(LAST), curve.original()
    if name in ("A", "lambda_", "gamma", "t0"):
        return None if published is None else float(getattr(published, name))
    return {
        "final_value": float(curve(LAST)),
        "peak_value": None if peak is None else float(curve(peak)),
        "peak_step": peak,
        "half_rise_step": curve.half_step(0, LAST),
        "K": curve.K,
    }[name]


def covered(curves: list[EmergenceCurve], fits: list[EmergenceFit], name: str) -> np.ndarray:
    """For each curve of which both the truth and the fit have the quantity: whether the interval holds the truth."""
    pairs = [(fit.intervals.get(name), truth(curve, name)) for curve, fit in zip(curves, fits, strict=True)]
    return np.array([own.low <= true <= own.high for own, true in pairs if own is not None and true is not None])


def main() -> None:
    """Draw, fit, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sample = Sample.draw(options.curves, options.seed)
    start = time.perf_counter()
    fits = fit_curves(sample.steps, sample.noisy, level=LEVEL)
    took = time.perf_counter() - start
    error = sample.error(fits)
    fresh = np.sqrt(1 + error**2)
    print(f"{options.curves} curves, {sample.steps.size} steps to {LAST}, noise {NOISE:.0%} of the range; {took:.0f} s")
    print(f"verdicts: {dict(Counter(str(fit.verdict) for fit in fits))}")
    print(f"regimes: {dict(Counter(str(fit.regime) for fit in fits))}")
    print(f"distance from the truth over the noise: median {np.median(error):.3f}, 99 % {np.quantile(error, 0.99):.3f}")
    print(f"error on fresh values over the noise: within 1.2 for {(fresh <= 1.2).mean():.2%}")
    print(f"\n| quantity | curves | {LEVEL:.0%} intervals that hold the truth | standard error | with an open end |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in QUANTITIES:
        hits = covered(sample.curves, fits, name)
        share = hits.mean()
        doubt = np.sqrt(share * (1 - share) / hits.size)
        stated = [fit for fit in fits if name in fit.intervals]
        open_ = np.mean([name in fit.left_open for fit in stated])
        print(f"| {name} | {hits.size} | {share:.1%} | {doubt:.1%} | {open_:.0%} |")


if __name__ == "__main__":
    main()
