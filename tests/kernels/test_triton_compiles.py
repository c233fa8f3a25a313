"""The Triton kernels compiled ahead of time: what can be known of them without a GPU.

The file is also a program, for kernels that were defined for the interpreter cannot be compiled in the same process: it
prints what came of the CASES that it is given, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CASES = {
    "bfloat16, 64": {"dtype": "bfloat16", "dim": 64},
    "bfloat16, 128": {"dtype": "bfloat16", "dim": 128},
    "float16, 64": {"dtype": "float16", "dim": 64},
    "float32, 128": {"dtype": "float32", "dim": 128},
    "bfloat16, 128, Ampere": {"dtype": "bfloat16", "dim": 128, "capability": 80},
    "everything": {"dtype": "bfloat16", "dim": 96, "window": 1024, "softcap": 30.0, "sinks": True, "mask": True},
    "sigmoid": {"dtype": "bfloat16", "dim": 64, "mechanism": "sigmoid", "mask": True, "causal": False},
}
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
STREAMING = ("forward_kernel", "column_kernel")
KERNELS = (*STREAMING, "map_kernel", "mean_kernel")


def tool(name):
    """A program that comes with Triton's wheel."""
    triton = pytest.importorskip("triton")
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    for name in ("ptxas", "nvdisasm"):
        if not tool(name).exists():
            pytest.skip(f"this Triton comes without {name}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    programs = []
    for half in (list(CASES)[::2], list(CASES)[1::2]):
        environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
        programs.append(
            subprocess.Popen(
                [sys.executable, __file__, *half],
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [program.communicate() for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    return {name: kernels for printed, _ in said for name, kernels in json.loads(printed).items()}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_fits_the_gpu_it_is_compiled_for(compiled, case, kernel):
    found = compiled[case][kernel]
    assert 0 < found["shared"] <= SHARED_MEMORY[CASES[case].get("capability", 90)]


@pytest.mark.parametrize("kernel", STREAMING)
@pytest.mark.parametrize("case", ["bfloat16, 64", "bfloat16, 128", "float16, 64"])
def test_the_loops_use_hoppers_tensor_cores_and_spill_nothing(compiled, case, kernel):
    found = compiled[case][kernel]
    loops = [loop for loop in found["loops"] if loop.get("HGMMA")]
    assert loops
    assert not any(loop.get("LDL", 0) + loop.get("STL", 0) for loop in loops)
    assert found["stack"] <= 32


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_spills_nothing(compiled, kernel):
    assert compiled["float32, 128"][kernel]["stack"] == 0


def compile_all(cases):
    """For each case and kernel: registers, bytes of stack and shared memory, and the instructions in each loop."""
    return {name: {call["kernel"]: compile_one(**call) for call in launches(**CASES[name])} for name in cases}


def launches(dtype, dim, capability=90, mechanism="softmax", sinks=False, mask=False, causal=True, **options):
    """What `attention_stats` would launch on a GPU: the kernels' names, the kernels and their arguments."""
    import torch

    from ontogeny.kernels.inputs import AttentionInputs
    from ontogeny.kernels.mechanisms import MECHANISMS
    from ontogeny.kernels.triton import launch

    q, k, v = (torch.empty(2, 256, 4, dim, dtype=getattr(torch, dtype)).transpose(1, 2) for _ in range(3))
    inputs = AttentionInputs(
        q,
        k,
        v,
        scale=dim**-0.5,
        causal=causal,
        mechanism=MECHANISMS["softmax_sink" if sinks else mechanism],
        sinks=torch.zeros(4, dtype=q.dtype) if sinks else None,
        mask=torch.ones(2, 256, dtype=torch.bool) if mask else None,
        rows=torch.arange(16),
        **options,
    )
    found = []

    class Recorder:
        def __init__(self, name):
            self.name, self.kernel = name, getattr(launch, name)

        def __getitem__(self, grid):
            return lambda **arguments: found.append(
                {"kernel": self.name, "function": self.kernel, "arguments": arguments, "capability": capability}
            )

    kept = {name: getattr(launch, name) for name in KERNELS}
    memory = launch._shared_memory
    launch._shared_memory = lambda device: SHARED_MEMORY[capability]
    for name in KERNELS:
        setattr(launch, name, Recorder(name))
    launch.sweep(inputs)
    launch._shared_memory = memory
    for name, kernel in kept.items():
        setattr(launch, name, kernel)
    return found


def compile_one(kernel, function, arguments, capability):
    """Compiles a kernel as its launch would, pointers and multiples of 16 marked as such."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "u8", "int32": "i32", "int64": "i64"}
    signature, constants, marks = {}, {}, {}
    for place, parameter in enumerate(function.params):
        value = arguments.pop(parameter.name)
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + short[str(value.dtype).removeprefix("torch.")]
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            marks[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=marks)
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=arguments)
    return {"shared": result.metadata.shared, **disassembled(result.asm["cubin"])}


def disassembled(cubin):
    """Bytes of stack, and how often each instruction stands in each innermost loop."""
    path = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    path.write_bytes(cubin)

    def say(name, *options):
        return subprocess.run([tool(name), *options, path], capture_output=True, text=True, check=True).stdout

    labels, names, loops = {}, [], []
    for line in say("nvdisasm", "-c").splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(names)
        if instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?(\w+)(.*);", line):
            names.append(instruction[1])
            target = re.search(r"`\((\.L_\w+)\)", instruction[2])
            if instruction[1] == "BRA" and target and target[1] in labels:
                loops.append(Counter(names[labels[target[1]] :]))
    usage = dict(re.findall(r"(REG|STACK):(\d+)", say("cuobjdump", "--dump-resource-usage")))
    return {"registers": int(usage["REG"]), "stack": int(usage["STACK"]), "loops": loops}


if __name__ == "__main__":
    print(json.dumps(compile_all(sys.argv[1:])))
