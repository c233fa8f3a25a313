"""Time and memory of several ways to do the same, side by side in one process."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ontogeny.bench.memory import peak_bytes

WARM_UP = 2


@dataclass(frozen=True)
class Cost:
    """The median of a contender's times with their quartiles, and the tensors that it held at once."""

    seconds: float
    quartiles: tuple[float, float]
    peak_bytes: int


def measure_costs(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, Cost]:
    """Run every contender once a round, and keep each one's median time; memory in a round of its own.

    Each round has an order of its own, drawn with a fixed seed: what runs after a contender that has just given back
    a gigabyte pays for it.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    for round_number in range(WARM_UP + repeats):
        shuffle(order)
        for name in order:
            seconds = _timed(contenders[name], device)
            if round_number >= WARM_UP:
                times[name].append(seconds)
    return {
        name: Cost(statistics.median(times[name]), _quartiles(times[name]), peak_bytes(run, device))
        for name, run in contenders.items()
    }


def _quartiles(times: list[float]) -> tuple[float, float]:
    if len(times) == 1:
        return times[0], times[0]
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, high


def _timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000
