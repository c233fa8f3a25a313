"""One attention call with its statistics: every way to get them, checked first and then timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ontogeny.bench.baselines import Statistics, eager, flex, sdpa
from ontogeny.bench.bound import least_seconds
from ontogeny.bench.cases import AttentionCase
from ontogeny.bench.record import Record, refuse_if_wrong
from ontogeny.bench.timing import measure_costs
from ontogeny.kernels import attention, attention_stats
from ontogeny.kernels.attention import Implementation
from ontogeny.kernels.inputs import Output

Contender = Callable[..., Statistics]

OUTPUT_ONLY = "SDPA, output only"
OFF = "ontogeny, statistics off"
EAGER = "eager map + reductions"
FLEX = "two FlexAttention calls"

# The largest error against float64 that a contender may show before it is timed; the map of a low-precision model is
# rounded to its dtype.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 4e-2, torch.float16: 1e-2}


def bench_attention(
    cases: Sequence[AttentionCase], device: torch.device, repeats: int, on_case: Callable[[str], None] = lambda _: None
) -> list[Record]:
    """A record for each case and contender. Raises OntogenyError where a contender's numbers are wrong."""
    records = []
    for case in cases:
        on_case(str(case))
        possible, impossible = _contenders(case, device)
        for name, run in possible.items():
            _check(name, run, case.small(), device)
        inputs = case.inputs(device)
        for name in [name for name, run in possible.items() if not _fits(run, inputs)]:
            impossible[name] = "out of memory"
            del possible[name]
        with torch.inference_mode():
            costs = measure_costs({name: partial(run, **inputs) for name, run in possible.items()}, device, repeats)
        least = least_seconds(case, torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        bounded = {name: least for name in costs if "triton" in name}
        records += [
            Record.of(str(case), name, cost, costs[OUTPUT_ONLY], bounded.get(name)) for name, cost in costs.items()
        ]
        records += [Record(str(case), name, note=reason) for name, reason in impossible.items()]
        if FLEX in possible:
            torch.compiler.reset()  # which stops compiling after eight shapes
    return records


def _contenders(case: AttentionCase, device: torch.device) -> tuple[dict[str, Contender], dict[str, str]]:
    """Those that can run, and why the others cannot."""
    possible: dict[str, Contender] = {
        OUTPUT_ONLY: sdpa,
        OFF: _output_alone,
        EAGER: eager,
    }
    impossible = {}
    if device.type == "cuda":
        impossible["ontogeny, blocked"] = "many times as slow as the kernels on a GPU"
        possible["ontogeny, triton"] = _ontogeny("triton")
        possible["ontogeny, triton + SDPA's output"] = _ontogeny("triton", output="sdpa")
        if case.padded:
            impossible[FLEX] = "the mask depends on the sequence"
        else:
            possible[FLEX] = flex
    else:
        possible["ontogeny, blocked"] = _ontogeny("blocked")
        possible["ontogeny, blocked + SDPA's output"] = _ontogeny("blocked", output="sdpa")
        impossible["ontogeny, triton"] = "needs an NVIDIA GPU"
        impossible[FLEX] = "gives its logsumexp on a GPU only"
    return possible, impossible


def _ontogeny(impl: Implementation, output: Output = "fused") -> Contender:
    def run(**inputs: Any) -> Statistics:
        return vars(attention_stats(**inputs, impl=impl, output=output))

    return run


def _output_alone(**inputs: Any) -> Statistics:
    return {"output": attention(**{name: value for name, value in inputs.items() if name != "rows"})}


def _fits(run: Contender, inputs: dict[str, Any]) -> bool:
    """Whether the device has the memory."""
    try:
        with torch.inference_mode():
            run(**inputs)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def _check(name: str, run: Contender, case: AttentionCase, device: torch.device) -> None:
    inputs = case.inputs(device, seed=1)
    expected = vars(attention_stats(**inputs, impl="reference"))
    with torch.inference_mode():
        found = run(**inputs)
    if inputs["mask"] is not None:  # what SDPA leaves at padding differs from device to device
        padding = ~inputs["mask"][:, None, :, None]
        found = {**found, "output": found["output"].masked_fill(padding, 0)}
    refuse_if_wrong(f"{name} at {case}", found, expected, TOLERANCE[case.dtype])
