"""The blocked implementation against the reference, and the reference against loops and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ontogeny.bench.memory import peak_bytes
from ontogeny.errors import OntogenyError
from ontogeny.kernels import attention, attention_stats

FIELDS = (
    "output",
    "lse",
    "entropy",
    "row_max",
    "participation",
    "mass",
    "column_mass",
    "visible_rows",
    "distance",
    "value_norm",
    "value_weighted_norm",
)

CASES = {
    "causal": {"causal": True},
    "bidirectional": {"causal": False},
    "grouped": {"causal": True, "kv_heads": 2},
    "one key head": {"causal": False, "kv_heads": 1},
    "window": {"causal": True, "window": 7, "kv_heads": 2},
    "window of one": {"causal": True, "window": 1},
    "softcap": {"causal": True, "softcap": 3.0},
    "sinks": {"causal": True, "sinks": True, "kv_heads": 2},
    "bias": {"causal": True, "bias": True},
    "left padding": {"causal": True, "padding": "left"},
    "right padding": {"causal": True, "padding": "right", "window": 9},
    "padding, bidirectional": {"causal": False, "padding": "right"},
    "sinks and padding": {"causal": True, "sinks": True, "padding": "left"},
    "all at once": {"causal": True, "window": 30, "softcap": 5.0, "sinks": True, "bias": True, "padding": "left"},
    "one token": {"causal": True, "length": 1},
    "longer than a block": {"causal": True, "length": 200, "kv_heads": 2, "padding": "right"},
    "longer, bidirectional": {"causal": False, "length": 150},
    "longer, window": {"causal": True, "length": 200, "window": 70},
}


def problem(seed, length=37, heads=4, kv_heads=4, dim=8, batch=3, sinks=False, bias=False, padding=None, **options):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, length, dim, generator=generator, dtype=torch.float64) * 2
    k, v = (torch.randn(batch, kv_heads, length, dim, generator=generator, dtype=torch.float64) for _ in "kv")
    mask = None
    if padding:
        mask = torch.ones(batch, length, dtype=torch.bool)
        for row, short in enumerate(torch.randint(1, length, (batch - 1,), generator=generator).tolist()):
            mask[row, slice(None, short) if padding == "left" else slice(length - short, None)] = False
    return {
        "q": q,
        "k": k,
        "v": v,
        "scale": dim**-0.5,
        "sinks": torch.randn(heads, generator=generator, dtype=torch.float64) if sinks else None,
        "bias": torch.randn(1, heads, length, length, generator=generator, dtype=torch.float64) if bias else None,
        "mask": mask,
        **options,
    }


@pytest.mark.parametrize("case", CASES)
def test_blocked_equals_reference_in_float64(case):
    arguments = problem(seed=0, **CASES[case])
    wanted = torch.arange(arguments["q"].shape[2]).flip(0)[:: 5 if case != "causal" else 1]
    expected = attention_stats(**arguments, rows=wanted, columns=wanted, impl="reference")
    found = attention_stats(**arguments, rows=wanted, columns=wanted, impl="blocked")
    for field in (*FIELDS, "rows", "columns"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-11, atol=1e-11, msg=field)


@pytest.mark.parametrize("case", CASES)
def test_float32_error_is_at_most_twice_that_of_plain_torch(case):
    arguments = problem(seed=1, **CASES[case])
    low = _in(torch.float32, arguments)
    exact = attention_stats(**_in(torch.float64, low), impl="reference")
    found = attention_stats(**low, impl="blocked")
    plain = _plain_float32(low)
    for field in ("output", "entropy", "column_mass", "lse"):
        truth = getattr(exact, field).double()
        error = (getattr(found, field).double() - truth).abs().max().item()
        allowed = (plain[field].double() - truth).abs().max().item()
        assert error <= 2 * allowed + 1e-6, field


def _in(dtype, arguments):
    return {key: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for key, x in arguments.items()}


def _plain_float32(arguments):
    """Eager attention as anyone would write it, in float32."""
    q, k, v = (arguments[name] for name in "qkv")
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    length = q.shape[2]
    scores = q @ k.transpose(-1, -2) * arguments["scale"]
    if cap := arguments.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    if arguments["bias"] is not None:
        scores = scores + arguments["bias"]
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (
        (distance >= 0) & (distance < (arguments.get("window") or length))
        if arguments["causal"]
        else distance == distance
    )
    seen = seen[None, None]
    if arguments["mask"] is not None:
        seen = seen & arguments["mask"][:, None, None, :] & arguments["mask"][:, None, :, None]
    scores = scores.masked_fill(~seen, -torch.inf)
    if arguments["sinks"] is not None:
        scores = torch.cat([scores, arguments["sinks"][None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    some = seen.any(-1, keepdim=True)
    p = torch.where(some, scores.softmax(-1), 0)
    return {
        "output": p[..., :length] @ v,
        "entropy": torch.special.entr(p).sum(-1),
        "column_mass": p[..., :length].sum(-2),
        "lse": torch.where(some.squeeze(-1), scores.logsumexp(-1), 0),
    }


def test_reference_equals_loops():
    arguments = problem(
        seed=2, length=9, heads=2, kv_heads=1, batch=2, causal=True, window=4, sinks=True, padding="left"
    )
    found = attention_stats(**arguments, impl="reference")
    q, k = arguments["q"].numpy(), arguments["k"].numpy()
    mask, sinks = arguments["mask"].numpy(), arguments["sinks"].numpy()
    for b in range(2):
        for h in range(2):
            column, rows, distances = np.zeros(9), np.zeros(9), []
            for i in range(9):
                keys = [j for j in range(max(0, i - 3), i + 1) if mask[b, j] and mask[b, i]]
                if not keys:
                    assert found.entropy[b, h, i] == found.lse[b, h, i] == found.participation[b, h, i] == 0
                    continue
                weights = {j: math.exp(arguments["scale"] * float(q[b, h, i] @ k[b, 0, j])) for j in keys}
                total = sum(weights.values()) + math.exp(sinks[h])
                p = {j: w / total for j, w in weights.items()}
                everything = [*p.values(), math.exp(sinks[h]) / total]
                assert found.entropy[b, h, i] == pytest.approx(-sum(x * math.log(x) for x in everything), rel=1e-12)
                assert found.participation[b, h, i] == pytest.approx(1 / sum(x * x for x in everything), rel=1e-12)
                assert found.row_max[b, h, i] == pytest.approx(max(p.values()), rel=1e-12)
                assert found.mass[b, h, i] == pytest.approx(sum(p.values()), rel=1e-12)
                distances.append(sum(x * (i - j) for j, x in p.items()))
                for j, x in p.items():
                    column[j] += x
                    rows[j] += 1
            np.testing.assert_allclose(found.column_mass[b, h].numpy(), column, atol=1e-13)
            np.testing.assert_array_equal(found.visible_rows[b, h].numpy(), rows)
            assert found.distance[b, h] == pytest.approx(np.mean(distances), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 90),
    kv_heads=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
    padding=st.sampled_from([None, "left", "right"]),
    sharpness=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_invariants(seed, length, kv_heads, causal, padding, sharpness):
    padding = padding if length > 1 else None
    arguments = problem(seed, length=length, kv_heads=kv_heads, causal=causal, padding=padding)
    arguments["q"] = arguments["q"] * sharpness
    found = attention_stats(**arguments, impl="blocked")
    valid = arguments["mask"] if padding else torch.ones(3, length, dtype=torch.bool)
    keys = torch.where(valid, valid.cumsum(1) if causal else valid.sum(1, keepdim=True), 0)[:, None]
    assert not any(getattr(found, field).isnan().any() for field in FIELDS)
    torch.testing.assert_close(found.column_mass.sum(-1), valid.sum(1).double()[:, None].expand(-1, 4))
    assert (found.entropy >= -1e-9).all() and (found.entropy <= keys.clamp_min(1).double().log() + 1e-9).all()
    participation = found.participation[valid[:, None].expand_as(found.participation)]
    entropy = found.entropy[valid[:, None].expand_as(found.entropy)]
    assert (participation >= 1 - 1e-9).all() and (participation <= entropy.exp() + 1e-9).all()
    torch.testing.assert_close(found.visible_rows.sum(-1), keys.sum(-1).double().expand(-1, 4))
    assert (found.distance >= -1e-9).all() and (found.distance <= length).all()


def test_entropy_is_the_normaliser_less_the_mean_score():
    arguments = problem(seed=3, length=80, causal=True, kv_heads=2)
    found = attention_stats(**arguments, rows=torch.arange(80))
    keys = arguments["k"].repeat_interleave(2, 1)
    mean_score = (arguments["q"] * (found.rows @ keys)).sum(-1) * arguments["scale"]
    torch.testing.assert_close(found.entropy, found.lse - mean_score)


def test_the_reference_is_differentiable():
    arguments = problem(seed=4, length=6, batch=1, causal=True)
    arguments["q"].requires_grad_()
    attention_stats(**arguments, impl="reference").entropy.sum().backward()
    assert arguments["q"].grad.abs().sum() > 0


def test_a_sink_far_above_every_score_takes_all_the_mass():
    arguments = problem(seed=5, causal=True, sinks=True)
    arguments["sinks"] = torch.full((4,), 400.0, dtype=torch.float64)
    low = _in(torch.float32, arguments)
    found = attention_stats(**low, impl="blocked")
    assert found.mass.max() < 1e-30
    torch.testing.assert_close(found.lse, torch.full_like(found.lse, 400.0))
    torch.testing.assert_close(found.participation, torch.ones_like(found.participation))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_reduced_in_float32(dtype):
    arguments = problem(seed=6, causal=True, length=70)
    low = _in(dtype, arguments)
    found, exact = attention_stats(**low), attention_stats(**low, impl="reference")
    assert found.output.dtype == dtype and found.entropy.dtype == torch.float32
    torch.testing.assert_close(found.entropy.double(), exact.entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_memory_beside_the_output_is_a_tenth_of_the_map(padded):
    q, k, v = (torch.randn(4, 12, 1024, 64, generator=torch.Generator().manual_seed(7)) for _ in range(3))
    mask = (torch.arange(1024) >= 100).expand(4, -1) if padded else None
    peak = peak_bytes(lambda: attention_stats(q, k, v, scale=0.125, causal=True, mask=mask, impl="blocked"))
    copies = 2 * k.nbytes if padded else 0  # keys and values without what is padding
    assert peak - q.nbytes - copies < 4 * 12 * 1024 * 1024 * 4 / 10


def test_memory_does_not_grow_with_the_square_of_the_length():
    def peak(length):
        arguments = problem(seed=7, length=length, heads=2, kv_heads=2, batch=2, causal=True)
        return peak_bytes(lambda: attention_stats(**arguments))

    assert peak(6000) < 2.2 * peak(3000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mechanism": "gaussian"}, "mechanism: expected one of softmax, .* got 'gaussian'"),
        ({"impl": "cuda"}, "impl: expected auto, .* got 'cuda'"),
        ({"k": torch.zeros(3, 3, 37, 8)}, "do not belong together"),
        ({"k": torch.zeros(3, 3, 37, 8), "v": torch.zeros(3, 3, 37, 8)}, "multiple of the key heads"),
        ({"q": torch.zeros(3, 4, 5, 8, dtype=torch.float64)}, "as many queries as keys"),
        ({"window": 0}, "window"),
        ({"sinks": torch.zeros(3)}, "sinks: expected one logit"),
        ({"mask": torch.ones(3, 36, dtype=torch.bool)}, "mask: expected padding"),
        ({"q": torch.zeros(4, 5, 8)}, "expected q"),
        ({"q": torch.zeros(3, 4, 37, 16, dtype=torch.float64)}, "do not belong together"),
        ({"k": torch.zeros(3, 4, 37, 8)}, "one floating-point dtype, got torch.float64, torch.float32"),
        ({"q": torch.zeros(3, 4, 0, 8)}, "must not be empty"),
        ({"window": -3}, "window: expected a whole number of keys, at least 1, got -3"),
        ({"window": 4, "causal": False}, "window: expected causal=True; two-sided windows"),
        ({"window": 2.5}, "window: expected a whole number of keys, at least 1, got 2.5"),
        ({"q": None}, "q: expected a tensor, got None"),
        ({"rows": [3]}, "rows: expected a tensor, got a list"),
        ({"mask": [True]}, "mask: expected a tensor, got a list"),
        ({"bias": 2.0}, "bias: expected a tensor, got 2.0"),
        ({"bias": torch.full((37, 37), -torch.inf)}, "bias: expected finite numbers; hide keys by `mask`"),
        ({"sinks": [1.0]}, r"sinks: expected a tensor \(H,\) or a number, got a list"),
        ({"scale": None}, "scale: expected a finite number, got None"),
        ({"mechanism": ["softmax"]}, "mechanism: expected one of"),
        ({"scale": float("nan")}, "scale: expected a finite number, got nan"),
        ({"scale": float("inf")}, "scale: expected a finite number, got inf"),
        ({"softcap": 0.0}, "softcap: expected a positive number"),
        ({"mask": torch.ones(3, 37)}, "mask: expected padding as bool"),
        ({"bias": torch.zeros(4, 37, 36)}, "bias: expected a shape broadcastable to"),
        ({"rows": torch.tensor([37])}, "rows: expected indices from 0 to 36"),
        ({"columns": torch.tensor([-1])}, "columns: expected indices from 0 to 36"),
        ({"columns": torch.tensor([0.5])}, "columns: expected a vector of indices"),
        ({"output": "flash"}, "output: expected fused or sdpa, got 'flash'"),
        ({"output": "sdpa", "softcap": 2.0}, "output: torch's SDPA computes softmax without soft-cap"),
        ({"impl": "triton"}, "impl: triton"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(OntogenyError, match=words):
        attention_stats(**{**problem(seed=8, causal=True), **change})


@pytest.mark.parametrize("inference", [False, True])
def test_indices_that_fitted_are_refused_where_they_no_longer_do(inference):
    with torch.inference_mode(inference):
        rows = torch.tensor([3, 36])
        attention_stats(**problem(seed=8, causal=True), rows=rows)
        with pytest.raises(OntogenyError, match="rows: expected indices from 0 to 19"):
            attention_stats(**problem(seed=8, causal=True, length=20), rows=rows)
        rows += 1
        with pytest.raises(OntogenyError, match="rows: expected indices from 0 to 36"):
            attention_stats(**problem(seed=8, causal=True), rows=rows)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("impl", ["blocked", "reference"])
def test_nan_in_the_input_shows_in_every_number_of_the_rows_that_see_it(impl, sinks):
    arguments = problem(seed=9, causal=True, length=80, sinks=sinks)
    arguments["k"][0, 1, 20] = torch.nan
    found = attention_stats(**arguments, impl=impl)
    for field in ("output", "lse", "entropy", "row_max", "participation", "mass"):
        value = getattr(found, field)
        assert value[0, 1, 20:].isnan().all(), field
        assert not value[1:].isnan().any() and not value[0, 0].isnan().any(), field
        if impl == "blocked":
            assert not value[0, 1, :20].isnan().any(), field
    assert found.column_mass[0, 1].isnan().any() and found.distance[0, 1].isnan()


def test_a_sink_that_takes_nothing_is_none():
    arguments = problem(seed=9, causal=True)
    without = attention_stats(**arguments)
    found = attention_stats(**{**arguments, "sinks": torch.full((4,), -torch.inf, dtype=torch.float64)})
    for field in ("entropy", "participation", "mass", "lse"):
        torch.testing.assert_close(getattr(found, field), getattr(without, field))


def test_autocast_does_not_touch_the_statistics():
    arguments = _in(torch.float32, problem(seed=9, causal=True, length=80))
    plain = attention_stats(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_stats(**arguments, rows=torch.tensor([3, 70]))
    assert torch.equal(found.entropy, plain.entropy) and torch.equal(found.column_mass, plain.column_mass)


@pytest.mark.parametrize("case", ["causal", "grouped", "window", "left padding", "longer, bidirectional"])
def test_the_output_can_be_that_of_torch_to_the_bit(case):
    arguments = _in(torch.float32, problem(seed=10, **CASES[case]))
    q, k, v, mask, window = (arguments.get(name) for name in ("q", "k", "v", "mask", "window"))
    seen = torch.ones(3, 1, q.shape[2], q.shape[2], dtype=torch.bool)
    if arguments["causal"]:
        seen = seen.tril()
    if window:
        seen = seen.triu(1 - window)
    if mask is not None:
        seen = seen & mask[:, None, :, None] & mask[:, None, None, :]
    plain = mask is None and window is None
    torch_own = torch.nn.functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if plain else seen,
        is_causal=plain and arguments["causal"],
        scale=arguments["scale"],
        enable_gqa=q.shape[1] != k.shape[1],
    )
    whole, fused = attention_stats(**arguments, output="sdpa"), attention_stats(**arguments)
    assert torch.equal(whole.output, torch_own) and torch.equal(attention(**arguments), torch_own)
    torch.testing.assert_close(whole.output, fused.output, rtol=1e-5, atol=1e-5)
    assert torch.equal(whole.entropy, fused.entropy)
