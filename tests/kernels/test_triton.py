"""The Triton kernels against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from ontogeny.kernels.triton import configurations
from tests.kernels.triton_problems import DEVICE, FIELDS, PER_ROW, check, problem, run

CASES = {
    "causal": {"heads": 2, "kv_heads": 2},
    "bidirectional": {"causal": False},
    "grouped": {"heads": 4, "kv_heads": 2},
    "one key head": {"causal": False, "heads": 3},
    "window": {"window": 7, "heads": 2},
    "window of one": {"window": 1},
    "window longer than all": {"window": 1000},
    "softcap": {"softcap": 3.0},
    "softcap, bidirectional": {"softcap": 20.0, "causal": False},
    "sinks": {"sinks": True, "heads": 2},
    "sinks and padding": {"sinks": True, "heads": 2, "kv_heads": 2, "padding": "left"},
    "left padding": {"padding": "left"},
    "right padding": {"padding": "right", "window": 9},
    "padding, bidirectional": {"causal": False, "padding": "right"},
    "padding with holes": {"padding": "holes"},
    "all at once": {"window": 20, "softcap": 5.0, "sinks": True, "padding": "left", "heads": 2},
    "one token": {"length": 1},
    "other queries than keys": {"causal": False, "queries": 20},
    "narrower values": {"value_dim": 24},
    "wider values": {"dim": 16, "value_dim": 40},
    "longer": {"length": 130},
    "longer, bidirectional": {"length": 130, "causal": False},
    "longer, window": {"length": 130, "window": 70},
    "longer, left padding": {"length": 130, "padding": "left"},
    "longer, right padding": {"length": 130, "padding": "right", "causal": False},
    "longer, holes": {"length": 130, "padding": "holes", "window": 50},
    "scale of the other sign": {"scale": -0.2},
    "no scale": {"scale": 0.0, "sinks": True},
    "sigmoid": {"mechanism": "sigmoid", "heads": 2},
    "sigmoid, left padding": {"mechanism": "sigmoid", "padding": "left", "softcap": 4.0},
    "sigmoid, longer": {"mechanism": "sigmoid", "length": 100, "causal": False},
    "relu": {"mechanism": "relu"},
    "relu, right padding": {"mechanism": "relu", "padding": "right", "heads": 2, "kv_heads": 2},
    "relu, longer": {"mechanism": "relu", "length": 100, "window": 40},
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_equal_the_reference(case):
    check(problem(**CASES[case]))


@pytest.mark.parametrize("dim", [8, 16, 32, 80, 96, 128, 256])
def test_every_head_size(dim):
    check(problem(dim=dim, length=33))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "case", ["longer, left padding", "all at once", "narrower values", "sigmoid", "relu", "bidirectional"]
)
def test_low_precision_inputs_are_reduced_in_float32(dtype, case):
    check(problem(**CASES[case], dtype=dtype))


def test_low_precision_at_two_tiles_of_a_kernel():
    check(problem(length=200, dtype=torch.float16, dim=16, window=90, padding="right"))


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
    found = run({**problem(length=9, heads=2), "rows": none, "columns": none})
    assert found.rows.shape == (2, 2, 0, 9) and found.columns.shape == (2, 2, 9, 0)


def test_a_whole_map_and_unordered_rows():
    rows = torch.cat([torch.tensor([69, 3, 3, 0]), torch.arange(70)]).to(DEVICE)
    check({**problem(length=70, padding="left", dim=16, window=50), "rows": rows})


def test_chosen_rows_and_columns_may_be_strided():
    arguments = problem(length=48, heads=1, kv_heads=1, dim=16)
    every = torch.arange(48, device=DEVICE)
    check({**arguments, "rows": every[1::4], "columns": every[:1].expand(3)})


def test_the_tile_for_long_rows(monkeypatch):
    arguments = problem(length=300, dtype=torch.float16, padding="left")
    few = run(arguments)
    monkeypatch.setattr(configurations, "LONG", 300)
    many = check(arguments)
    assert not torch.equal(few.entropy, many.entropy)  # another order of the sums: another tile


@settings(max_examples=8, deadline=None, derandomize=True)
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
    made = {"kv_heads": kv_heads, "causal": causal, "padding": padding, "sinks": sinks}
    arguments = problem(seed, length=length, heads=2, dim=16, **made)
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
