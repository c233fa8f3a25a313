"""What the default probes add to the plain forward passes of a checkpoint, on a CPU.

python benchmarks/probes.py --json > benchmarks/results/probes/<machine>.json
python benchmarks/probes.py --page
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "probes"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python benchmarks/probes.py --page -->", "<!-- end of the probes' tables -->"
PLAIN, HEAD, OURS = "plain passes", "plain passes, output head too", "measure_checkpoint, default probes"
LENGTH, SEQUENCES, BATCH = 512, 16, 8
WARM_UP = 1
QUIET = 0.05
PATIENCE = 100


def contenders(model: Any, ids: Any) -> dict[str, Callable[[], object]]:
    """Ways to run the model on `ids` (N, T), by batches: without and with the output head, and measured."""
    import torch

    from ontogeny.dynamics.corpus import Corpus
    from ontogeny.dynamics.measure import measure_checkpoint
    from ontogeny.dynamics.progress import Progress
    from ontogeny.probes.probe import ProbeSettings
    from ontogeny.probes.registry import make_probes

    model.set_attn_implementation("sdpa")
    probes = make_probes(None, ProbeSettings(ids.shape[1]))
    corpus = Corpus("random", ids, "auto")

    @torch.no_grad()
    def passes(network: Any) -> None:
        for batch in torch.from_numpy(ids).split(BATCH):
            network(input_ids=batch, use_cache=False)

    return {
        PLAIN: lambda: passes(model.base_model),
        HEAD: lambda: passes(model),
        OURS: lambda: measure_checkpoint(model, corpus, probes, BATCH, Progress()),
    }


def bench(case: str, ways: dict[str, Callable[[], object]], rounds: int, threads: int) -> dict[str, Any]:
    """Every way once a round, in an order that is drawn anew; ratios are taken within a round.

    One thread's time is the CPU's, to which other processes do little. Of more threads it is the clock's, and a run
    during which other processes took more than a twentieth of the CPUs is repeated, at most 100 times.
    """
    draw = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in ways}
    disturbed = 0
    for number in range(WARM_UP + rounds):
        for name in draw.sample(list(ways), len(ways)):
            for _ in range(PATIENCE):
                seconds, others = _timed(ways[name]) if threads > 1 else (_cpu_seconds(ways[name]), 0.0)
                if others <= QUIET:
                    break
            print(f"{case}: round {number}, {name}: {seconds:.2f} s, others {others:.0%}", file=sys.stderr)
            if number >= WARM_UP:
                times[name].append(seconds)
                disturbed += others > QUIET
    ratios = {
        name: _quartiles([ours / one for ours, one in zip(times[OURS], times[name], strict=True)])
        for name in (PLAIN, HEAD)
    }
    found = {name: _quartiles(some) for name, some in times.items()}
    return {"case": case, "rounds": rounds, "disturbed": disturbed, "seconds": found, "ratios": ratios}


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and the share of the CPUs that other processes took meanwhile; Linux only."""
    busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    others = _busy_seconds() - busy - (time.process_time() - own)
    return seconds, max(0.0, others) / seconds / (os.cpu_count() or 1)


def _cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _busy_seconds() -> float:
    """What the CPUs have worked since the start of the machine, and what its host has kept from them."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def cases() -> list[tuple[str, Callable[[], Any]]]:
    """Names and models: random ones of two shapes, and SmolLM2 where the package that carries it is installed."""
    import torch

    from ontogeny.bench.models import ModelCase
    from ontogeny.dynamics.loading.model import load_model
    from ontogeny.dynamics.sources.smollm2 import smollm2_file

    device = torch.device("cpu")
    found: list[tuple[str, Callable[[], Any]]] = [
        ("shape of Pythia-70M", lambda: ModelCase(6, 512, 8).model("sdpa", device)),
        ("shape of Pythia-160M", lambda: ModelCase(12, 768, 12).model("sdpa", device)),
    ]
    file = smollm2_file()
    if file is not None:
        found.append(("SmolLM2-135M-Instruct", lambda: load_model(file)))
    return found


def measure_all(rounds: int, threads: int, code: str) -> dict[str, Any]:
    """Every case on random tokens; `code` says in words what was measured."""
    import numpy as np
    import torch

    from ontogeny.bench.machine import describe_machine

    torch.set_num_threads(threads)
    measured = []
    for name, make in cases():
        model = make()
        ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (SEQUENCES, LENGTH))
        measured.append(bench(name, contenders(model, ids), rounds, threads))
    return {"machine": describe_machine(torch.device("cpu")), "code": code, "cases": measured}


def tables() -> str:
    """Markdown: what every file holds."""
    return "".join(_table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json")))


def _table(found: dict[str, Any]) -> str:
    machine = found["machine"]
    clock = "CPU time of one thread" if machine["threads"] == "1" else f"{machine['threads']} threads"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "python"))
    lines = [
        f"### {found['code']}: {machine['device']}, {clock}",
        "",
        f"{versions}; {SEQUENCES} x {LENGTH} tokens by {BATCH}, float32; medians of interleaved rounds.",
        "",
        "| model | rounds | plain, s | + head, s | measured, s | to plain | quartiles | to plain + head | quartiles |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in found["cases"]:
        seconds = " | ".join(f"{case['seconds'][name][1]:.2f}" for name in (PLAIN, HEAD, OURS))
        ratios = " | ".join(
            f"{middle:.2f} | {low:.2f}-{high:.2f}"
            for low, middle, high in (case["ratios"][name] for name in (PLAIN, HEAD))
        )
        lines.append(f"| {case['case']} | {case['rounds']} | {seconds} | {ratios} |")
    disturbed = {case["case"]: case["disturbed"] for case in found["cases"] if case["disturbed"]}
    for name, count in disturbed.items():
        lines += ["", f"{name}: other processes took more than {QUIET:.0%} of the CPUs in {count} of the runs."]
    return "\n".join([*lines, "", ""])


def main() -> None:
    """Measure and print, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--page", action="store_true", help="write the tables from benchmarks/results/probes/*.json")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--code", default="Now", help="what is measured, in words, for the table's heading")
    asked = parser.parse_args()
    if asked.page:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}{END}{rest.split(END)[1]}")
        return
    found = measure_all(asked.rounds, asked.threads, asked.code)
    print(json.dumps(found, indent=1) if asked.json else _table(found))


if __name__ == "__main__":
    main()
