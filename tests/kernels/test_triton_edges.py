"""The Triton kernels at the edges: no mass, NaN, strange inputs, torch's own output, refusals, and who takes them."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest
import torch

from ontogeny.errors import OntogenyError
from ontogeny.kernels import attention, attention_stats
from ontogeny.kernels.masks import sliding_window

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from ontogeny.kernels.triton import launch  # noqa: E402
from ontogeny.kernels.triton.padding import spans  # noqa: E402
from ontogeny.kernels.triton.tiles import tanh  # noqa: E402
from tests.kernels.triton_problems import DEVICE, FIELDS, PER_ROW, check, problem, run  # noqa: E402

kernels_attention = importlib.import_module("ontogeny.kernels.attention")  # the package has a function of that name


def test_a_sequence_of_padding_alone_holds_0():
    arguments = problem(length=20, mechanism="sigmoid", padding="left")
    arguments["mask"][0] = False
    found = check(arguments)
    assert (found.output[0] == 0).all() and (found.distance[0] == 0).all()


@pytest.mark.parametrize("sink", [300.0, -300.0])
def test_a_sink_far_from_every_score(sink):
    arguments = problem(length=9)
    found = run({**arguments, "sinks": sink})
    without = run(arguments)
    if sink > 0:
        assert found.mass.max() < 1e-30
        torch.testing.assert_close(found.lse, torch.full_like(found.lse, sink))
        torch.testing.assert_close(found.participation, torch.ones_like(found.participation))
    else:
        for field in FIELDS:
            torch.testing.assert_close(getattr(found, field), getattr(without, field))


def test_a_small_share_beside_a_sink_keeps_its_digits():
    arguments = problem(length=9, scale=0.01) | {"sinks": 20.0}
    found, exact = run(arguments), attention_stats(**arguments, impl="reference")
    assert found.mass.max() < 1e-6
    torch.testing.assert_close(found.mass.double(), exact.mass, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("mechanism", "scale"), [("sigmoid", -0.6), ("relu", 1e-12)])
def test_rows_of_hardly_any_mass(mechanism, scale):
    arguments = problem(length=9, mechanism=mechanism, scale=scale)
    arguments["q"], arguments["k"] = arguments["q"].abs(), arguments["k"].abs()
    arguments["k"][:, :, 4:] *= 0.5
    found, exact = run(arguments), attention_stats(**arguments, impl="reference")
    assert found.mass.min() < 1e-11
    for field in ("entropy", "participation", "mass"):
        torch.testing.assert_close(getattr(found, field).double(), getattr(exact, field), rtol=1e-4, atol=1e-4)


def test_a_relu_row_without_mass_holds_0():
    arguments = problem(length=9, mechanism="relu")
    arguments["q"], arguments["k"] = arguments["q"].abs(), -arguments["k"].abs()
    found = run(arguments)
    assert all((getattr(found, field) == 0).all() for field in ("output", *PER_ROW[1:], "column_mass", "distance"))


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("mechanism", ["softmax", "softmax_sink", "sigmoid", "relu"])
@pytest.mark.parametrize("where", ["q", "k"])
def test_nan_is_not_lost(mechanism, where):
    arguments = problem(length=40, dim=16, mechanism=mechanism)
    arguments[where][0, 0, 33, 5] = math.nan
    struck = torch.zeros(40, dtype=torch.bool)
    struck[slice(33, 34) if where == "q" else slice(33, None)] = True
    found = run(arguments)
    for field in ("output", *PER_ROW):
        if (value := getattr(found, field)) is not None:
            rows = value[0, 0].flatten(1) if field == "output" else value[0, 0, :, None]
            assert rows[struck].isnan().all() and not rows[~struck].isnan().any(), field
            assert not value[1].isnan().any()
    assert found.column_mass[0, 0, 33].isnan()


def test_repeated_runs_agree_to_the_bit():
    arguments = problem(length=60, heads=2, sinks=True, padding="left", dtype=torch.float16)
    first, second = run(arguments), run(arguments)
    for field in FIELDS:
        torch.testing.assert_close(getattr(first, field), getattr(second, field), rtol=0, atol=0)


def test_gradients_are_not_wanted_and_not_in_the_way():
    arguments = problem(length=9)
    arguments["q"].requires_grad_()
    assert not run(arguments).output.requires_grad


def test_sdpa_leaves_0_at_padding():
    arguments = problem(heads=2, padding="left")
    padding = ~arguments["mask"][0]
    asked = {name: value for name, value in arguments.items() if name not in ("rows", "columns")}
    for output in (attention(**asked), run({**arguments, "output": "sdpa"}).output):
        assert (output[0, :, padding] == 0).all() and (output[0, :, ~padding] != 0).all()


def test_sdpa_gives_the_output_and_the_kernels_the_rest():
    arguments = problem(heads=4, kv_heads=2)
    output = run({**arguments, "output": "sdpa"}).output
    alone = attention(*(arguments[name] for name in "qkv"), scale=arguments["scale"], causal=True)
    torch.testing.assert_close(output, alone, rtol=0, atol=0)
    check({**arguments, "output": "sdpa"})


def test_values_are_not_looked_at_for_sdpa():
    arguments = problem(output="sdpa")
    arguments["v"].fill_(math.nan)
    found = run(arguments)
    assert all(getattr(found, field).isfinite().all() for field in (*PER_ROW, "column_mass", "distance"))


def test_transposed_inputs_are_read_in_place_and_strided_ones_copied(monkeypatch):
    seen = []
    whole = launch._rows_whole
    monkeypatch.setattr(launch, "_rows_whole", lambda x: seen.append((x, whole(x))) or seen[-1][1])
    arguments = problem(heads=2, length=20)
    expected = run(arguments)
    as_models_have_them = {name: arguments[name].transpose(1, 2).contiguous().transpose(1, 2) for name in "qkv"}
    every_other = {name: arguments[name].repeat_interleave(2, -1)[..., ::2] for name in "qkv"}
    for strange, copied in ((as_models_have_them, False), (every_other, True)):
        seen.clear()
        found = run({**arguments, **strange})
        assert len(seen) == 3
        assert all((before.data_ptr() != after.data_ptr()) is copied for before, after in seen)
        for field in FIELDS:
            torch.testing.assert_close(getattr(found, field), getattr(expected, field))


@triton.jit
def _tanh_kernel(X, Y, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(Y + place, tanh(tl.load(X + place)))


def test_tanh_keeps_its_digits_near_0_and_far_away():
    half = torch.cat([torch.logspace(-7, 2, 1022), torch.tensor([0.0, 1e5])])
    x = torch.cat([half, -half]).to(DEVICE)
    y = torch.full_like(x, math.nan)
    _tanh_kernel[(1,)](x, y, SIZE=2048)
    torch.testing.assert_close(y.double(), x.double().tanh(), rtol=1e-6, atol=0)


def test_spans_tell_tokens_from_padding():
    rows = ["11111", "00110", "01101", "00000", "10000"]
    mask = torch.tensor([[letter == "1" for letter in row] for row in rows])
    assert spans(mask).tolist() == [[0, 5, 5], [2, 4, 4], [1, 5, 1], [0, 0, 0], [0, 1, 1]]


def test_auto_is_triton_where_it_has_been_run_and_has_a_kernel(monkeypatch):
    monkeypatch.setattr(kernels_attention, "triton_was_run_on", lambda device: True)
    arguments = problem(length=20)
    asked = []

    def noting(name, implementation):
        return lambda inputs: asked.append(name) or implementation(inputs)

    ways = {name: noting(name, implementation) for name, implementation in kernels_attention._IMPLEMENTATIONS.items()}
    monkeypatch.setattr(kernels_attention, "_IMPLEMENTATIONS", ways)
    attention_stats(**arguments)
    attention_stats(**{**arguments, "mechanism": "entmax15"})
    monkeypatch.setattr(kernels_attention, "triton_was_run_on", lambda device: False)
    attention_stats(**arguments)
    assert asked == ["triton", "blocked", "blocked"]


def test_triton_was_run_on_no_cpu():
    assert not kernels_attention.triton_was_run_on(torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({name: torch.zeros(1, 1, 4, 8, dtype=torch.float64) for name in "qkv"}, "triton .*float32.*got float64"),
        ({"bias": torch.zeros(4, 4)}, "triton .*no bias.*blocked"),
        ({"mask_mod": sliding_window(3)}, "triton .*no mask_mod"),
        ({"mechanism": "entmax15"}, "triton .*softmax, .*got entmax15"),
        ({"v": torch.zeros(1, 1, 4, 257)}, "triton .*at most 256.*got 257"),
        ({"output": "sdpa", "softcap": 2.0}, "^output: .*softcap=2.0"),
        ({"output": "sdpa", "sinks": 1.0}, "^output: .*sink"),
    ],
)
def test_what_the_kernels_are_not_made_for_is_refused(change, words):
    arguments = {name: torch.zeros(1, 1, 4, 8) for name in "qkv"} | {"scale": 1.0, "causal": True} | change
    arguments = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    with pytest.raises(OntogenyError, match=words):
        run(arguments)


def test_a_cpu_is_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.setattr(launch, "INTERPRETED", False)
    arguments = {name: torch.zeros(1, 1, 4, 8) for name in "qkv"}
    with pytest.raises(OntogenyError, match=r"triton .*on a GPU, got cpu.*blocked.*TRITON_INTERPRET=1"):
        run({**arguments, "scale": 1.0, "causal": True})


def test_everything_else_works_without_triton_installed():
    program = """
import sys
sys.modules["triton"] = None
import torch
from ontogeny.errors import OntogenyError
from ontogeny.kernels import attention_stats
inputs = {name: torch.ones(1, 1, 4, 8) for name in "qkv"} | {"scale": 1.0, "causal": True}
assert attention_stats(**inputs).mass.sum() == 4
try:
    attention_stats(**inputs, impl="triton")
except OntogenyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'ontogeny[triton]'" in done.stdout
