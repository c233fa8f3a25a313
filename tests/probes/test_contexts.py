"""Distances of equal tokens in different contexts: against loops over pairs, and where they must be 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.probes.capture import CONTEXTS, capture, run_pass
from ontogeny.probes.capture import contexts as contexts_module
from ontogeny.probes.capture.contexts import EqualTokens
from tests.models import FAMILIES, tiny, token_ids
from tests.probes.plain import FLOATS, LAYERS, LENGTH, SEQUENCES, close, in_dtype, measured, measured_of, plain_of


def distances(states, ids):
    """Relative distances of every pair of positions that hold one token; states (T, d)."""
    found = []
    for j in range(len(ids)):
        for i in range(j):
            if ids[i] == ids[j]:
                norm = (np.linalg.norm(states[i]) + np.linalg.norm(states[j])) / 2
                found.append(np.linalg.norm(states[i] - states[j]) / norm)
    return found


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_distances_equal_loops_over_pairs(family, dtype):
    found = measured_of(family, dtype)
    ids = token_ids(SEQUENCES, LENGTH).tolist()
    for depth in range(LAYERS + 1):
        each = [distances(states[depth], one) for states, one in zip(plain_of(family).states, ids, strict=True)]
        there = [pairs for pairs in each if pairs]
        at = {"depth": depth}
        absolute = 1e-12 if dtype == torch.float64 else 1e-6  # equal tokens are equal before the first block
        for name, expected in (
            ("context_distance_min", min(min(pairs) for pairs in there)),
            ("context_distance", np.mean([np.mean(pairs) for pairs in there])),
        ):
            if expected < absolute:
                assert float(found[name].sel(at)) == pytest.approx(0, abs=absolute)
            else:
                close(found[name].sel(at), expected, family, dtype, f"{name} {depth}")
        assert int(found.context_sequences.sel(at)) == len(there) == SEQUENCES
    learned = family in ("gpt2", "opt", "bert")  # positions that are added to the stream
    assert bool(found.context_distance.sel(depth=0) > 0.1) == learned
    assert (found.context_distance[1:] > 1e-3).all()


def test_sequences_in_which_no_token_comes_twice_count_in_no_mean():
    ids = torch.stack([torch.arange(3, 23), torch.arange(3, 23), torch.arange(3, 23)])
    ids[1, 5], ids[2, 9] = ids[1, 2], ids[2, 4]
    model = tiny("llama")
    found = measured(model, names=("contexts",), ids=ids)
    assert (found.context_sequences == 2).all()
    alone = [measured(model, names=("contexts",), ids=ids[n : n + 1]) for n in (1, 2)]
    np.testing.assert_allclose(found.context_distance, np.mean([one.context_distance for one in alone], 0), rtol=1e-5)
    np.testing.assert_allclose(
        found.context_distance_min, np.min([one.context_distance_min for one in alone], 0), rtol=1e-5
    )
    none = measured(model, names=("contexts",), ids=ids[:1])
    assert (none.context_sequences == 0).all()
    assert none.context_distance.isnull().all() and none.context_distance_min.isnull().all()


def repeated(model, length=12):
    return measured(model, names=("contexts",), ids=torch.full((2, length), 7)).context_distance.values


def test_equal_tokens_in_equal_contexts_have_one_state():
    """One token repeated, and no positions: every row mixes equal values, whatever it attends to."""
    without = tiny("gpt2")
    without.transformer.wpe.weight.zero_()
    np.testing.assert_allclose(repeated(without), 0, atol=1e-6)
    np.testing.assert_allclose(repeated(tiny("llama")), 0, atol=1e-6)  # rotary positions act on the scores alone
    assert (repeated(tiny("gpt2")) > 0.1).all()


def test_pairs_are_taken_a_few_at_a_time_with_no_other_result(monkeypatch):
    state = torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(0))
    equal = EqualTokens.find(token_ids(3, 30) % 5, None)
    whole = equal.distances(state)
    monkeypatch.setattr(contexts_module, "_PAIRS_AT_ONCE", 7 * 8)
    assert len(equal.of) > 3 * 7
    for one, other in zip(equal.distances(state), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_distances_do_not_depend_on_the_scale(scale):
    state = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    equal = EqualTokens.find(token_ids(2, 20) % 5, None)
    for one, other in zip(equal.distances(state * scale), equal.distances(state), strict=True):
        torch.testing.assert_close(one, other)


def test_states_that_are_zero_are_no_distance_apart():
    equal = EqualTokens.find(torch.tensor([[4, 4, 4]]), None)
    nearest, mean = equal.distances(torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]]))
    assert nearest.tolist() == [0.0]
    assert mean.tolist() == pytest.approx([(0 + 2 + 2) / 3])  # |h - 0| over the mean of |h| and 0


def test_padding_is_equal_to_nothing():
    model, ids = tiny("llama"), torch.arange(3, 23)[None].clone()
    ids[0, -5:] = 3
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    assert run_pass(model, ids, mask, needs={CONTEXTS}).depths[1].context_mean.isnan().all()
    assert run_pass(model, ids, needs={CONTEXTS}).depths[1].context_mean.isfinite().all()


def test_it_is_measured_on_request_alone():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with capture(model) as trace:
        model(ids)
    assert trace.depths[0].context_mean is None and "context_distance" not in ontogeny.measure(trace)
    with capture(model, needs={CONTEXTS, "residual"}) as trace:
        model(ids)
    assert {"context_distance", "massive_ratio"} <= set(ontogeny.measure(trace).data_vars)
    assert "context_distance" in in_scan(("contexts",)) and "context_distance" not in in_scan(None)


def in_scan(names):
    return measured(in_dtype("llama", torch.float32), names=names).data_vars
