"""The Triton kernels against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ontogeny.errors import OntogenyError
from ontogeny.kernels import attention, attention_stats
from ontogeny.kernels.maps import map_statistics
from ontogeny.kernels.masks import sliding_window

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from ontogeny.kernels.triton import configurations, launch  # noqa: E402
from ontogeny.kernels.triton.padding import spans  # noqa: E402
from ontogeny.kernels.triton.tiles import tanh  # noqa: E402

kernels_attention = importlib.import_module("ontogeny.kernels.attention")  # the package has a function of that name
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PER_ROW = ("lse", "entropy", "row_max", "participation", "mass")
FIELDS = ("output", *PER_ROW, "column_mass", "visible_rows", "distance", "value_norm", "value_weighted_norm")

CASES = {
    "causal": {},
    "bidirectional": {"causal": False},
    "grouped": {"heads": 4, "kv_heads": 2},
    "one key head": {"causal": False, "heads": 3, "kv_heads": 1},
    "window": {"window": 7, "kv_heads": 1},
    "window of one": {"window": 1},
    "window longer than all": {"window": 1000},
    "softcap": {"softcap": 3.0},
    "softcap, bidirectional": {"softcap": 20.0, "causal": False},
    "sinks": {"sinks": True, "kv_heads": 1},
    "sinks and padding": {"sinks": True, "padding": "left"},
    "left padding": {"padding": "left"},
    "right padding": {"padding": "right", "window": 9},
    "padding, bidirectional": {"causal": False, "padding": "right"},
    "padding with holes": {"padding": "holes"},
    "all at once": {"window": 20, "softcap": 5.0, "sinks": True, "padding": "left", "kv_heads": 1},
    "one token": {"length": 1},
    "other queries than keys": {"causal": False, "queries": 20},
    "narrower values": {"value_dim": 24},
    "wider values": {"dim": 16, "value_dim": 40},
    "longer": {"length": 130, "heads": 1, "kv_heads": 1},
    "longer, bidirectional": {"length": 130, "heads": 1, "kv_heads": 1, "causal": False},
    "longer, window": {"length": 130, "heads": 1, "kv_heads": 1, "window": 70},
    "longer, left padding": {"length": 130, "heads": 1, "kv_heads": 1, "padding": "left"},
    "longer, right padding": {"length": 130, "heads": 1, "kv_heads": 1, "padding": "right", "causal": False},
    "longer, holes": {"length": 130, "heads": 1, "kv_heads": 1, "padding": "holes", "window": 50},
    "scale of the other sign": {"scale": -0.2},
    "no scale": {"scale": 0.0, "sinks": True},
    "sigmoid": {"mechanism": "sigmoid"},
    "sigmoid, left padding": {"mechanism": "sigmoid", "padding": "left", "softcap": 4.0},
    "sigmoid, longer": {"mechanism": "sigmoid", "length": 100, "heads": 1, "kv_heads": 1, "causal": False},
    "relu": {"mechanism": "relu"},
    "relu, right padding": {"mechanism": "relu", "padding": "right", "kv_heads": 1},
    "relu, longer": {"mechanism": "relu", "length": 100, "heads": 1, "kv_heads": 1, "window": 40},
}


@pytest.fixture(autouse=True)
def nothing_is_zero_from_the_start(monkeypatch):
    """Whatever a kernel leaves unwritten is NaN."""
    allocate = launch._empty
    monkeypatch.setattr(launch, "_empty", lambda *args, **options: allocate(*args, **options).fill_(math.nan))


def problem(
    seed=0, length=37, queries=None, heads=2, kv_heads=2, dim=64, value_dim=None, dtype=torch.float32, **options
):
    """Arguments of `attention_stats` for two sequences; `padding` and `sinks` are made to measure."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    q, k = draw(2, heads, queries or length, dim) * 2, draw(2, kv_heads, length, dim)
    v, sinks = draw(2, kv_heads, length, value_dim or dim), draw(heads)
    mask, padding = None, options.pop("padding", None)
    if padding:
        mask = torch.ones(2, length, dtype=torch.bool, device=DEVICE)
        places = {"left": slice(length // 3), "right": slice(length // 2, None), "holes": slice(1, None, 3)}
        mask[0, places[padding]] = False
    wanted = {"rows": torch.arange(0, q.shape[2], 7), "columns": torch.arange(0, length, 5)}
    return {
        "q": q,
        "k": k,
        "v": v,
        "scale": dim**-0.5,
        "causal": True,
        "mask": mask,
        **{name: indices.to(DEVICE) for name, indices in wanted.items()},
        **options,
        "sinks": sinks if options.get("sinks") else None,
    }


def run(arguments):
    return attention_stats(**arguments, impl="triton")


def plain_float32(arguments):
    """The statistics of a whole map as anyone would make it, in float32; the output in the inputs' own dtype."""
    q, k, v = (arguments[name] for name in "qkv")
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q.float() @ k.float().transpose(-1, -2) * arguments["scale"]
    if cap := arguments.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    distance = torch.arange(q.shape[2], device=DEVICE)[:, None] - torch.arange(k.shape[2], device=DEVICE)
    seen = (distance < (arguments.get("window") or math.inf)) & ((distance >= 0) | (not arguments["causal"]))
    keys = torch.tensor(float(k.shape[2]), device=DEVICE)
    if (mask := arguments["mask"]) is not None:
        seen = seen & mask[:, None, None, :] & mask[:, None, :, None]
        keys = mask.sum(1).float().view(-1, 1, 1, 1)
    seen = seen.expand_as(scores)
    some = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen, -torch.inf).masked_fill(~some, 0)
    sink = None
    mechanism = arguments.get("mechanism", "softmax")
    if mechanism == "sigmoid":
        p = (scores - keys.log()).sigmoid()
    elif mechanism == "relu":
        p = scores.relu() / keys
    elif arguments["sinks"] is not None:
        logits = arguments["sinks"].float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        p, sink = torch.cat([scores, logits], -1).softmax(-1).split([k.shape[2], 1], -1)
    else:
        p = scores.softmax(-1)
    output = (p * some).to(v.dtype) @ v
    return map_statistics(p * some, seen, v.float(), output, None if sink is None else sink * some)


def check(arguments, factor=2.0):
    """Equal to the reference, up to `factor` times the error of plain torch."""
    found, exact = run(arguments), attention_stats(**arguments, impl="reference")
    plain = plain_float32(arguments)
    for field in (*FIELDS, "rows", "columns"):
        truth, value = getattr(exact, field), getattr(found, field)
        if truth is None:
            assert value is None
            continue
        assert value.shape == truth.shape
        assert value.dtype == (arguments["q"].dtype if field == "output" else torch.float32)
        truth, size = truth.double(), 1 + truth.double().abs().max().item()
        other = getattr(plain, field)
        allowed = 0.0 if other is None else (other.double() - truth).abs().max().item()
        error = (value.double() - truth).abs().max().item()
        assert error <= factor * allowed + 2e-6 * size, f"{field}: {error} where plain torch has {allowed}"
    torch.testing.assert_close(found.visible_rows.double(), exact.visible_rows, rtol=0, atol=0)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_equal_the_reference(case):
    check(problem(**CASES[case]))


@pytest.mark.parametrize("dim", [8, 16, 32, 80, 96, 128, 256])
def test_every_head_size(dim):
    check(problem(dim=dim, length=33, heads=1, kv_heads=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "case", ["longer, left padding", "all at once", "narrower values", "sigmoid", "relu", "bidirectional"]
)
def test_low_precision_inputs_are_reduced_in_float32(dtype, case):
    check(problem(**CASES[case], dtype=dtype))


def test_low_precision_at_two_tiles_of_a_kernel():
    check(problem(length=200, heads=1, kv_heads=1, dtype=torch.float16, dim=16, window=90, padding="right"))


@pytest.mark.skipif(DEVICE == "cpu", reason="minutes in the interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 128])
def test_many_tiles_of_a_kernel(dtype, dim):
    for case in ({}, {"padding": "left", "window": 257}, {"causal": False, "padding": "right"}):
        arguments = problem(length=1777, heads=2, kv_heads=1, dtype=dtype, dim=dim, **case)
        first, second = check(arguments), run(arguments)
        for field in (*FIELDS, "rows", "columns"):
            torch.testing.assert_close(getattr(first, field), getattr(second, field), rtol=0, atol=0)


def test_no_row_and_no_column_are_parts_of_the_map_too():
    none = torch.arange(0, device=DEVICE)
    found = run({**problem(length=9), "rows": none, "columns": none})
    assert found.rows.shape == (2, 2, 0, 9) and found.columns.shape == (2, 2, 9, 0)


def test_a_whole_map_and_unordered_rows():
    arguments = problem(length=70, heads=2, kv_heads=1, padding="left", dim=16, window=50)
    check({**arguments, "rows": torch.arange(70, device=DEVICE)})
    check({**arguments, "rows": torch.tensor([69, 3, 3, 0], device=DEVICE)})


def test_chosen_rows_and_columns_may_be_strided():
    arguments = problem(length=48, heads=1, kv_heads=1, dim=16)
    every = torch.arange(48, device=DEVICE)
    check({**arguments, "rows": every[1::4], "columns": every[:1].expand(3)})


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


def test_sdpa_leaves_0_at_padding():
    arguments = problem(heads=4, kv_heads=2, padding="left")
    padding = ~arguments["mask"][0]
    asked = {name: value for name, value in arguments.items() if name not in ("rows", "columns")}
    for output in (attention(**asked), run({**arguments, "output": "sdpa"}).output):
        assert (output[0, :, padding] == 0).all() and (output[0, :, ~padding] != 0).all()


def test_the_tile_for_long_rows(monkeypatch):
    arguments = problem(length=300, heads=1, kv_heads=1, dtype=torch.float16, padding="left")
    few = run(arguments)
    monkeypatch.setattr(configurations, "LONG", 300)
    many = check(arguments)
    assert not torch.equal(few.entropy, many.entropy)  # another order of the sums: another tile


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
    arguments = problem(heads=4, kv_heads=2, length=20)
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


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 70),
    kv_heads=st.sampled_from([1, 2]),
    causal=st.booleans(),
    padding=st.sampled_from([None, "left", "right"]),
    sinks=st.booleans(),
    sharpness=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_invariants(seed, length, kv_heads, causal, padding, sinks, sharpness):
    padding = padding if length > 2 else None
    arguments = problem(seed, length=length, kv_heads=kv_heads, dim=16, causal=causal, padding=padding, sinks=sinks)
    arguments["q"] *= sharpness
    found = run(arguments)
    assert not any(getattr(found, field).isnan().any() for field in FIELDS)
    valid = arguments["mask"] if padding else torch.ones(2, length, dtype=torch.bool, device=DEVICE)
    outcomes = torch.where(valid, valid.cumsum(1) if causal else valid.sum(1, keepdim=True), 0)[:, None] + int(sinks)
    torch.testing.assert_close(found.column_mass.sum(-1), found.mass.sum(-1), rtol=1e-5, atol=1e-5)
    if not sinks:
        torch.testing.assert_close(found.mass, valid[:, None].expand_as(found.mass).float())
    rows = valid[:, None].expand_as(found.entropy)
    assert (found.entropy >= -1e-5).all()
    assert (found.entropy <= outcomes.clamp_min(1).log() + 1e-5).all()
    assert (found.participation[rows] >= 1 - 1e-5).all()
    assert (found.participation[rows] <= found.entropy[rows].exp() * (1 + 1e-5)).all()
    assert (found.row_max <= 1 + 1e-5).all() and (found.distance >= -1e-4).all()
    for field in ("output", *PER_ROW):
        assert (getattr(found, field).movedim(1, 2)[~valid] == 0).all()


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
    arguments = problem(length=9, scale=0.01)
    found, exact = (attention_stats(**arguments | {"sinks": 20.0}, impl=impl) for impl in ("triton", "reference"))
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
    arguments = problem(length=40, heads=1, kv_heads=1, dim=16, mechanism=mechanism)
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
    arguments = problem(length=60, sinks=True, padding="left", dtype=torch.float16)
    first, second = run(arguments), run(arguments)
    for field in FIELDS:
        torch.testing.assert_close(getattr(first, field), getattr(second, field), rtol=0, atol=0)


def test_gradients_are_not_wanted_and_not_in_the_way():
    arguments = problem(length=9)
    arguments["q"].requires_grad_()
    assert not run(arguments).output.requires_grad


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
