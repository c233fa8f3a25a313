"""Each mechanism against an independent computation of its weights, its gradient, and what its statistics say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from ontogeny.errors import OntogenyError
from ontogeny.kernels import MECHANISMS, attention, attention_stats
from ontogeny.kernels.mechanisms import ScoredRows

FIELDS = (
    "output",
    "entropy",
    "row_max",
    "participation",
    "mass",
    "column_mass",
    "visible_rows",
    "distance",
    "value_norm",
    "value_weighted_norm",
    "lse",
    "rows",
    "columns",
)


def weights_of(name, scores, keys=None, sinks=None):
    mechanism = MECHANISMS[name]
    keys = torch.tensor([float(keys or scores.shape[-1])], dtype=scores.dtype)
    return mechanism.weight(scores, mechanism.threshold(ScoredRows(scores, keys, sinks)))


def by_bisection(scores, alpha):
    """alpha-entmax from its definition: the threshold that makes the weights sum to one, found by a root search."""
    z = [(alpha - 1) * s for s in scores]

    def excess(tau):
        return sum(max(x - tau, 0) ** (1 / (alpha - 1)) for x in z) - 1

    tau = brentq(excess, max(z) - 1.001, max(z), xtol=1e-15, rtol=1e-15)
    return [max(x - tau, 0) ** (1 / (alpha - 1)) for x in z]


@pytest.mark.parametrize(("name", "alpha"), [("entmax15", 1.5), ("sparsemax", 2.0)])
@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.floats(-30, 30), min_size=1, max_size=12), repeat=st.integers(1, 3))
def test_entmax_is_the_root_of_its_definition(name, alpha, scores, repeat):
    scores = scores * repeat
    found = weights_of(name, torch.tensor(scores, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(by_bisection(scores, alpha), dtype=torch.float64), rtol=0, atol=1e-9)


def test_sparsemax_is_the_projection_onto_the_simplex():
    scores = torch.tensor([0.3, -0.2, 0.9, 0.85, -1.0], dtype=torch.float64)
    nearest = minimize(
        lambda p: ((p - scores.numpy()) ** 2).sum(),
        [0.2] * 5,
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        tol=1e-14,
    )
    torch.testing.assert_close(weights_of("sparsemax", scores), torch.from_numpy(nearest.x), rtol=0, atol=1e-6)


def test_the_pointwise_mechanisms_are_their_formulas():
    scores = [-3.0, 0.0, 1.5, 40.0]
    row = torch.tensor(scores, dtype=torch.float64)
    sigmoid = [1 / (1 + math.exp(-(s - math.log(4)))) for s in scores]
    assert weights_of("sigmoid", row).tolist() == pytest.approx(sigmoid, rel=1e-12)
    assert weights_of("relu", row).tolist() == [0, 0, 1.5 / 4, 10]
    total = sum(math.exp(s) for s in scores)
    assert weights_of("softmax", row).tolist() == pytest.approx([math.exp(s) / total for s in scores], rel=1e-12)
    off_by_one = weights_of("softmax_sink", row[:3], sinks=torch.zeros(1, dtype=torch.float64))
    total = 1 + sum(math.exp(s) for s in scores[:3])
    assert off_by_one.tolist() == pytest.approx([math.exp(s) / total for s in scores[:3]], rel=1e-12)


def problem(seed=0, length=70, dtype=torch.float64, padding=False, sharp=1.0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, heads, length, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    mask = None
    if padding:
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[0, : length // 3] = False
        mask[1, -2:] = False
    return {"q": (q * sharp).to(dtype), "k": k.to(dtype), "v": v.to(dtype), "scale": 8**-0.5, "mask": mask}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("name", MECHANISMS)
def test_blocked_equals_reference(name, padding, causal):
    arguments = problem(padding=padding, sharp=3.0)
    wanted = torch.tensor([0, 1, 30, 69])
    found, expected = (
        attention_stats(**arguments, causal=causal, mechanism=name, rows=wanted, columns=wanted, impl=impl)
        for impl in ("blocked", "reference")
    )
    for field in FIELDS:
        if field == "lse" and not MECHANISMS[name].has_lse:
            assert found.lse is None and expected.lse is None
            continue
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-9, msg=field)


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_statistics_are_those_of_the_map(name):
    """Every field from a map that a loop makes, row by row."""
    arguments = problem(length=12, padding=True)
    found = attention_stats(**arguments, causal=True, mechanism=name, impl="blocked")
    q, k, v, mask = (arguments[one] for one in ("q", "k", "v", "mask"))
    for b in range(2):
        distance, moved, rows = [0.0] * 4, [0.0] * 4, int(mask[b].sum())
        for h in range(4):
            column = torch.zeros(12, dtype=torch.float64)
            for i in range(12):
                seen = [j for j in range(i + 1) if mask[b, i] and mask[b, j]]
                if not seen:
                    assert found.mass[b, h, i] == found.entropy[b, h, i] == found.participation[b, h, i] == 0
                    assert not found.output[b, h, i].any()
                    continue
                scores = k[b, h // 2, seen] @ q[b, h, i] * 8**-0.5
                sink = torch.zeros(1, dtype=torch.float64) if name == "softmax_sink" else None
                a = weights_of(name, scores, keys=rows, sinks=sink)
                torch.testing.assert_close(found.output[b, h, i], a @ v[b, h // 2, seen])
                everything = torch.cat([a, 1 - a.sum()[None]]) if sink is not None else a
                p = everything / everything.sum() if everything.sum() > 0 else everything
                entropy = -sum(x * math.log(x) for x in p.tolist() if x > 0)
                assert found.mass[b, h, i] == pytest.approx(float(a.sum()), rel=1e-9)
                assert found.row_max[b, h, i] == pytest.approx(float(a.max()), rel=1e-9)
                assert found.entropy[b, h, i] == pytest.approx(entropy, rel=1e-9, abs=1e-9)
                if p.any():
                    assert found.participation[b, h, i] == pytest.approx(1 / float(p.square().sum()), rel=1e-9)
                column[seen] += a
                distance[h] += sum(float(x) * (i - j) for j, x in zip(seen, a, strict=True)) / rows
                moved[h] += float(a @ v[b, h // 2, seen].norm(dim=-1)) / rows
            torch.testing.assert_close(found.column_mass[b, h], column)
        assert found.distance[b].tolist() == pytest.approx(distance, rel=1e-9)
        assert found.value_weighted_norm[b].tolist() == pytest.approx(moved, rel=1e-9)


@pytest.mark.parametrize("name", MECHANISMS)
def test_padding_changes_nothing_for_the_tokens(name):
    whole = problem(length=20)
    alone = attention_stats(**whole, causal=True, mechanism=name)
    pad = {one: torch.nn.functional.pad(whole[one], (0, 0, 7, 0), value=9.0) for one in "qkv"}
    mask = torch.arange(27).expand(2, -1) >= 7
    padded = attention_stats(**{**whole, **pad, "mask": mask}, causal=True, mechanism=name)
    for field in ("output", "entropy", "row_max", "participation", "mass", "column_mass", "visible_rows"):
        torch.testing.assert_close(getattr(padded, field)[:, :, 7:], getattr(alone, field), msg=field)
    for field in ("distance", "value_weighted_norm"):
        torch.testing.assert_close(getattr(padded, field), getattr(alone, field), msg=field)


@pytest.mark.parametrize("name", MECHANISMS)
def test_float32_is_close_to_float64(name):
    low = problem(dtype=torch.float32, padding=True)
    exact = attention_stats(**low, causal=True, mechanism=name, impl="reference")
    found = attention_stats(**low, causal=True, mechanism=name, impl="blocked")
    for field in ("entropy", "mass", "participation", "column_mass", "distance", "value_weighted_norm"):
        torch.testing.assert_close(getattr(found, field).double(), getattr(exact, field), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_reference_has_the_gradient_of_its_output(name):
    """Against finite differences, at scores where ReLU and entmax do not turn."""
    arguments = problem(length=5, seed=3)
    q, k, v = (arguments.pop(one).requires_grad_() for one in "qkv")

    def run(q, k, v):
        stats = attention_stats(q, k, v, **arguments, causal=True, mechanism=name, impl="reference")
        return stats.output, stats.column_mass

    assert torch.autograd.gradcheck(run, (q, k, v), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", MECHANISMS)
def test_attention_alone_has_the_same_output_and_gradient(name):
    gradients = []
    for run in (
        lambda **arguments: attention_stats(**arguments, impl="reference").output,
        lambda **arguments: attention(**arguments),
    ):
        arguments = problem(length=9, padding=True)
        for one in "qkv":
            arguments[one].requires_grad_()
        output = run(**arguments, causal=True, mechanism=name)
        output.square().sum().backward()
        gradients.append((output.detach(), *(arguments[one].grad for one in "qkv")))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_constant_sink_is_a_learned_one_of_the_same_value():
    arguments = problem()
    constant = attention_stats(**arguments, causal=True, sinks=1.5)
    learned = attention_stats(**arguments, causal=True, sinks=torch.full((4,), 1.5, dtype=torch.float64))
    named = attention_stats(**arguments, causal=True, sinks=1.5, mechanism="softmax_sink")
    assert torch.equal(constant.entropy, learned.entropy) and torch.equal(constant.entropy, named.entropy)
    assert (constant.mass < 1).all()


@pytest.mark.parametrize("name", ["sigmoid", "relu", "entmax15", "sparsemax"])
def test_only_softmax_takes_a_sink(name):
    with pytest.raises(OntogenyError, match=f"sinks: {name} attention has no sink logit"):
        attention_stats(**problem(), causal=True, mechanism=name, sinks=0.0)


def test_every_mechanism_names_its_source():
    for name, mechanism in MECHANISMS.items():
        assert mechanism.name == name
        assert len(mechanism.source) == 10 and mechanism.source[4] == "."


def test_sigmoid_knows_the_number_of_keys_to_the_scores_precision():
    rows = ScoredRows(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([3]))
    assert MECHANISMS["sigmoid"].threshold(rows).item() == pytest.approx(math.log(3), abs=1e-15)
