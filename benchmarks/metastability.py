"""Theory against simulation: the tables and figures of docs/metastability.md.

python benchmarks/metastability.py --json > benchmarks/results/metastability/<machine>.json
python benchmarks/metastability.py --page      # the tables, from that file
python benchmarks/metastability.py --figures   # docs/figures/*.svg: wants `pip install kaleido` and a Chromium

The figures of SmolLM2 are of a scan:
ontogeny scan smollm2 --sequences 32 --probes clusters,random_tokens,effective_beta --out FOLDER, then --figures FOLDER.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ontogeny import open_scan, plots, simulate
from ontogeny import scan as run_scan
from ontogeny.bench.machine import describe_machine
from ontogeny.dynamics.particles.two_body import exponential_time, leading_time, next_order_time, two_body_time

RESULTS = Path(__file__).parent / "results" / "metastability"
DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURES = DOCS / "metastability.md", DOCS / "figures"
BEGIN, END = "<!-- tables: python benchmarks/metastability.py --page -->", "<!-- end of tables -->"

EXPONENTIALS = {"usa": "exp(beta (1 - c))", "sa": "exp(beta (1 - c)) / 2"}
KINDS = tuple(EXPONENTIALS)
BETAS = np.arange(2.0, 21.0)
CLUSTER, SAMPLES, RADIUS, APART = 8, 8, 0.02, -0.25  # particles a cluster, its half angle, the clusters' inner product
MET = 0.999
SLOPES = ((2.0, 8.0), (14.0, 20.0))  # betas
STAIRS, FURTHEST = (4.0, 9.0, 25.0), 2.2  # beta; the stretched time to which the largest is followed
PHASE_BETAS, PHASE_SAMPLES, PHASE_PARTICLES, PHASE_HORIZON = np.linspace(0.1, 9, 90), 64, 32, 30.0


def two_clusters() -> np.ndarray:
    """States (samples, 2 x CLUSTER, 2) of two narrow clusters on the circle."""
    rng = np.random.default_rng(0)
    angle = np.repeat([0.0, np.arccos(APART)], CLUSTER) + rng.uniform(-RADIUS, RADIUS, (SAMPLES, 2 * CLUSTER))
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def inner_product(states: np.ndarray) -> np.ndarray:
    """Of the two clusters' mean directions, (samples,)."""
    means = states.reshape(SAMPLES, 2, CLUSTER, 2).mean(axis=2)
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    return (means[:, 0] * means[:, 1]).sum(-1)


def theorem(states: np.ndarray, beta: float) -> float:
    """The least lifetime that arXiv 2410.06833 proves, (eps / n) exp((1 - alpha) beta), of any sample.

    Caps are where an inner product with the centre is 1 - eps or more, alpha is the largest between two caps.
    """
    alpha = (states[:, :CLUSTER] @ states[:, CLUSTER:].swapaxes(1, 2)).max()
    return float((1 - np.cos(RADIUS)) / (2 * CLUSTER) * np.exp((1 - alpha) * beta))


def lifetimes(kind: str) -> list[dict[str, Any]]:
    """For every beta the two clusters' lifetime, simulated, exact (from each sample's own start), and approximated."""
    states = two_clusters()
    rows = []
    for beta in BETAS:
        exact = two_body_time(beta, inner_product(states), MET, kind)
        found = simulate(beta=[beta], kind=kind, start=states, horizon=float(2 * exact.max()), thresholds=[MET])
        plateau = found.isel(beta=0, threshold=0, plateau=0)
        lasted = (plateau["plateau_end"] - plateau["plateau_start"]).values
        rows.append(
            {
                "beta": float(beta),
                "simulated": float(np.median(lasted)),
                "exact": float(np.median(exact)),
                "worst": float(np.abs(lasted / exact - 1).max()),
                "bound": theorem(states, beta),
                "exponential": float(exponential_time(beta, APART, kind)),
                "leading": float(leading_time(beta, APART, kind)),
                "corrected": float(next_order_time(beta, APART, kind)),
                "steps": int(found["steps"].max()),
            }
        )
    return rows


def staircase() -> xr.Dataset:
    """USA from uniform particles on the circle, until one cluster is left."""
    last = float(np.exp(max(STAIRS) * FURTHEST))
    times = np.concatenate([[0.0], np.geomspace(1e-2, last, 600)])
    return simulate(32, 2, STAIRS, kind="usa", horizon=last, times=times, seed=1, keep_states=True)


def phase() -> xr.Dataset:
    """SA from the same uniform particles at every beta (arXiv 2312.10794), with the default tolerance 1e-8."""
    times = np.geomspace(0.1, PHASE_HORIZON, 60)
    return simulate(
        PHASE_PARTICLES, 2, PHASE_BETAS, samples=PHASE_SAMPLES, horizon=PHASE_HORIZON, times=times, tolerance=1e-8
    )


def measure() -> dict[str, Any]:
    """Everything that the tables need; the phase diagram by the clock, and by the time that the CPUs worked."""
    clock, worked = time.perf_counter(), time.process_time()
    diagram = phase()
    clock, worked = time.perf_counter() - clock, time.process_time() - worked
    end = diagram["clustered"].isel(time=-1).mean("sample")
    stairs = staircase()
    lasted = {kind: lifetimes(kind) for kind in KINDS}
    return {
        "machine": describe_machine(torch.device("cpu")),
        "lifetimes": lasted,
        "slopes": {kind: [_slope(rows, *ends) for ends in SLOPES] for kind, rows in lasted.items()},
        "staircase": [_stairs(stairs.sel(beta=beta, sample=0)) for beta in STAIRS],
        "phase": {
            "seconds": clock,
            "cpu_seconds": worked,
            "trajectories": int(diagram["steps"].size),
            "steps": int(diagram["steps"].sum()),
            "most_steps": int(diagram["steps"].max()),
            "clustered": {f"{beta:.1f}": float(end.sel(beta=beta, method="nearest")) for beta in (0.1, 1, 3, 5, 7, 9)},
        },
    }


def _slope(rows: list[dict[str, Any]], first: float, last: float) -> dict[str, float]:
    """The slope of the logarithm of the simulated lifetime over betas from `first` to `last`, by least squares."""
    inside = [row for row in rows if first <= row["beta"] <= last]
    beta, lasted = np.array([(row["beta"], row["simulated"]) for row in inside]).T
    return {"first": first, "last": last, "slope": float(np.polyfit(beta, np.log(lasted), 1)[0])}


def _stairs(one: xr.Dataset) -> dict[str, Any]:
    beta = float(one["beta"])
    mergers = one["merger_time"].sel(threshold=MET).dropna("merger").values
    return {
        "beta": beta,
        "mergers": len(mergers),
        "last_three": [float(np.log1p(time) / beta) for time in mergers[-3:]],
        "steps": int(one["steps"]),
        "verdict": str(one["verdict"].item()),
    }


def tables(found: dict[str, Any]) -> str:
    """Markdown."""
    machine, ran = found["machine"], found["phase"]
    lines = []
    for kind in KINDS:
        lines += [
            f"**Lifetime of two clusters, {kind.upper()}**",
            "",
            f"| beta | simulated | exact | largest error | {EXPONENTIALS[kind]} over exact | leading order over exact "
            "| with the next order | steps |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in found["lifetimes"][kind]:
            ratios = " | ".join(f"{row[name] / row['exact']:.3f}" for name in ("exponential", "leading", "corrected"))
            lines.append(
                f"| {row['beta']:g} | {row['simulated']:.5g} | {row['exact']:.5g} | {row['worst']:.2%} | {ratios} | "
                f"{row['steps']} |"
            )
        slopes = "; ".join(
            f"{one['slope']:.3f} over beta from {one['first']:g} to {one['last']:g}" for one in found["slopes"][kind]
        )
        lines += ["", f"Slope of the logarithm of the lifetime, where 1 - c = {1 - APART:g}: {slopes}.", ""]
    lines += [
        "**Staircase**",
        "",
        "| beta | mergers | last three, in stretched time | steps | verdict |",
        "| ---: | ---: | --- | ---: | --- |",
    ]
    for row in found["staircase"]:
        last = ", ".join(f"{time:.3f}" for time in row["last_three"])
        lines.append(f"| {row['beta']:g} | {row['mergers']} | {last} | {row['steps']} | {row['verdict']} |")
    shares = ", ".join(f"{share:.2f} at beta = {beta}" for beta, share in ran["clustered"].items())
    took = f"{ran['seconds']:.0f} s ({ran['cpu_seconds']:.0f} s of CPU time)"
    where = f"one thread of {machine['device']}, torch {machine['torch']}"
    steps = f"{ran['steps']:,} steps in all, at most {ran['most_steps']} for one"
    lines += [
        "",
        f"**Phase diagram**: {ran['trajectories']:,} trajectories in {took} on {where}; {steps}. Share of clustered "
        f"pairs at t = {PHASE_HORIZON:g}: {shares}.",
        "",
    ]
    return "\n".join([*lines, ""])


def write_page() -> None:
    """Replace what stands between the marks."""
    (path,) = RESULTS.glob("*.json")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(json.loads(path.read_text()))}{END}{rest.split(END)[1]}")


def write_figures(scan: Path | None) -> None:
    """Simulate and scan anew and draw, and draw the scan of SmolLM2."""
    FIGURES.mkdir(exist_ok=True)
    rows = lifetimes("usa")
    column = {name: [row[name] for row in rows] for name in rows[0]}
    approximations = {
        "exp(β (1 - c))": column["exponential"],
        "leading order": column["leading"],
        "theorem's bound": column["bound"],
    }
    drawn = {
        "lifetimes": plots.lifetimes(column["beta"], column["simulated"], column["exact"], approximations),
        "staircase": plots.simulation(staircase(), time="stretched"),
        "phase": plots.phase_diagram(phase()),
        "pocket": plots.metastability(run_scan("pocket", probes=["clusters", "random_tokens"], sequences=32)),
    }
    if scan is not None:
        drawn["smollm2"] = plots.metastability(open_scan(scan), selection="without_sinks")
        drawn["smollm2-beta"] = plots.effective_beta(open_scan(scan))
    for name, figure in drawn.items():
        figure.write_image(FIGURES / f"{name}.svg", width=900)


def main() -> None:
    """Measure and print, or write the page or its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--page", action="store_true", help="write the tables from benchmarks/results/metastability")
    parser.add_argument("--figures", nargs="?", const="", metavar="SCAN", help="write docs/figures/*.svg")
    asked = parser.parse_args()
    if asked.page:
        write_page()
    elif asked.figures is not None:
        write_figures(Path(asked.figures) if asked.figures else None)
    else:
        found = measure()
        print(json.dumps(found, indent=1) if asked.json else tables(found))


if __name__ == "__main__":
    main()
