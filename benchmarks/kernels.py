"""The Triton kernels alone, without the host's time, against torch's SDPA kernels: a table of docs/performance.md.

python benchmarks/kernels.py --out benchmarks/results/kernels/<machine>.json      # needs a GPU
python benchmarks/kernels.py --page
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ontogeny.bench.cases import AttentionCase, default_cases
from ontogeny.bench.machine import describe_machine
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.mechanisms import MECHANISMS

RESULTS = Path(__file__).parent / "results" / "kernels"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python benchmarks/kernels.py --page -->", "<!-- end of the kernels' tables -->"
FLASH, CUDNN = "flash", "cudnn"
ROUNDS, WARM_UP = 20, 3
# Clock cycles for which the GPU is kept busy while the host queues a round.
HEAD_START = 8_000_000


def main() -> None:
    """Measure, or write the page's tables from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(measured(), indent=1) + "\n")
    if asked.page:
        page = PAGE.read_text()
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}{END}{rest.split(END)[1]}")


def measured() -> dict[str, Any]:
    """Median milliseconds of every kernel, for the benchmark's cases."""
    device = torch.device("cuda")
    records = []
    for case in default_cases(device, torch.bfloat16):
        records.append({"case": str(case), **_times(_kernels(case, device))})
        print(records[-1], flush=True)
    return {"machine": describe_machine(device), "rounds": ROUNDS, "records": records}


def _kernels(case: AttentionCase, device: torch.device) -> dict[str, Callable[[], object]]:
    from ontogeny.kernels.triton import launch

    given = case.inputs(device)
    inputs = AttentionInputs(**given, mechanism=MECHANISMS["softmax"])
    shared = launch.shared_arguments(inputs)
    _, rows = launch.run_forward(inputs, shared)
    found: dict[str, Callable[[], object]] = {
        "F": lambda: launch.run_forward(inputs, shared),
        "C": lambda: launch.run_columns(inputs, shared, rows["LSE"]),
        "all": lambda: launch.sweep(inputs),
    }
    if case.window is None and not case.padded:
        found[FLASH] = lambda: _sdpa(inputs, SDPBackend.FLASH_ATTENTION)
        found[CUDNN] = lambda: _sdpa(inputs, SDPBackend.CUDNN_ATTENTION)
    return found


def _sdpa(inputs: AttentionInputs, backend: SDPBackend) -> torch.Tensor:
    with sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(
            inputs.q, inputs.k, inputs.v, is_causal=True, scale=inputs.scale, enable_gqa=inputs.group > 1
        )


def _times(kernels: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Interleaved, in an order that is drawn anew each round, queued before the GPU comes to them."""
    found: dict[str, list[float]] = {name: [] for name in kernels}
    order, shuffle = list(kernels), random.Random(0).shuffle
    for round_number in range(WARM_UP + ROUNDS):
        shuffle(order)
        torch.cuda._sleep(HEAD_START)
        marks = {name: (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for name in order}
        for name in order:
            marks[name][0].record()
            kernels[name]()
            marks[name][1].record()
        torch.cuda.synchronize()
        if round_number >= WARM_UP:
            for name, (begin, end) in marks.items():
                found[name].append(begin.elapsed_time(end))
    return {name: statistics.median(times) for name, times in found.items()}


def tables() -> str:
    """Markdown: a table for every machine."""
    return "".join(_machine(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json")))


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    lines = [
        f"### The kernels alone: {machine['device']}",
        "",
        f"torch {machine['torch']}, triton {machine['triton']}; ms, medians of {found['rounds']} interleaved rounds.",
        "",
        "| case | F | C | all | flash | cuDNN | F / flash | F + C / flash | F / cuDNN | F + C / cuDNN |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for record in found["records"]:
        f, c, others = record["F"], record["C"], [record.get(name) for name in (FLASH, CUDNN)]
        ratios = [f"{ours / other:.2f}" if other else "-" for other in others for ours in (f, f + c)]
        times = [f"{time:.3f}" if time else "-" for time in (f, c, record["all"], *others)]
        lines.append(f"| {record['case']} | {' | '.join([*times, *ratios])} |")
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    main()
