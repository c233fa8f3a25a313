"""What a phase diagram of the self-attention model costs: clustered share over beta and time (arXiv 2312.10794).

python benchmarks/phase_diagram.py --json      # 90 values of beta in 0.1 .. 9, 64 starts, n = 32, d = 2, T = 30
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import numpy as np
import torch

import ontogeny
from ontogeny.bench.machine import describe_machine

PARTICLES, DIMENSION, HORIZON = 32, 2, 30.0
BETAS, SAMPLES, TIMES = 90, 64, 61
SHOWN = (0.1, 1.0, 3.0, 5.0, 9.0)


def measure(tolerance: float) -> dict[str, Any]:
    """One phase diagram: seconds, steps, and some of its values."""
    load = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    found = ontogeny.simulate(
        PARTICLES,
        DIMENSION,
        np.linspace(0.1, 9.0, BETAS),
        samples=SAMPLES,
        horizon=HORIZON,
        times=np.linspace(0, HORIZON, TIMES),
        tolerance=tolerance,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    share = found["clustered"].mean("sample")
    return {
        "machine": describe_machine(torch.device("cpu")),
        "load_before": load,
        "trajectories": BETAS * SAMPLES,
        "tolerance": tolerance,
        "seconds": wall,
        "cpu_seconds": cpu,
        "steps_mean": float(found["steps"].mean()),
        "steps_most": int(found["steps"].max()),
        "collapsed": float((found["verdict"] == "collapsed").mean()),
        "clustered": {
            f"{beta:g}": [round(float(share.sel(beta=beta, time=at, method="nearest")), 4) for at in (5, 15, 30)]
            for beta in SHOWN
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--tolerance", type=float, default=1e-8, help="the largest error of a coordinate in a step")
    asked = parser.parse_args()
    found = measure(asked.tolerance)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    print(
        f"{found['trajectories']} trajectories in {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s of one CPU), "
        f"{found['steps_mean']:.0f} steps each, {found['steps_most']} at most; load before: {found['load_before']:.2f}"
    )
    for beta, share in found["clustered"].items():
        print(f"beta {beta}: clustered share {share} at t = 5, 15, 30")


if __name__ == "__main__":
    main()
