"""The other criteria of a sink, against loops over whole maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.probes.capture import run_pass
from tests.models import FAMILIES, tiny, token_ids
from tests.probes.plain import FLOATS, HEADS, LAYERS, LENGTH, close, in_dtype, measured, measured_of, plain_of


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_criteria_equal_loops_over_maps(family, dtype, monkeypatch):
    multiple = 2.0 if family == "bert" else 5.0  # its random heads spread more evenly
    monkeypatch.setattr("ontogeny.probes.sinks.ACT_MULTIPLE", multiple)
    found = measured(in_dtype(family, dtype), names=("sinks",), positions=None)
    maps = plain_of(family).maps
    for layer, head in np.ndindex(LAYERS, HEADS):
        first, rate = [], np.zeros(LENGTH)
        for a in maps[:, layer, head]:
            first += [row[0] for row in a]
            for key, column in enumerate(a.T):
                rate[key] += (column.sum() / (column > 0).sum() > multiple / LENGTH) / len(maps)
        at = {"layer": layer, "head": head}
        close(found.first_token_share.sel(at), np.mean(first), family, dtype)
        np.testing.assert_allclose(found.act_sink_rate.sel(at), rate, rtol=1e-12)
    assert 0 < found.act_sink_rate.mean() < 0.5
    assert found.act_sink_rate.attrs["source"] == "arXiv:2406.15765" and found.attrs["act_sink_multiple"] == multiple
    assert found.first_token_share.attrs["source"] == "arXiv:2504.02732"


def test_the_share_of_the_first_token_is_that_of_its_rows_beyond_a_window_too():
    """Rows that no longer see the first token give it nothing, and count."""
    maps = plain_of("mistral").maps
    assert (maps[:, :, :, 9:, 0] == 0).all() and (maps[:, :, :, 8, 0] > 0).all()
    found = measured_of("mistral", torch.float64)
    np.testing.assert_allclose(found.first_token_share, maps[..., :9, 0].sum(-1).mean(0) / LENGTH, rtol=1e-7)


def test_a_first_token_that_no_row_sees_has_no_share_and_the_second_is_not_taken_for_it():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.attending(model, mask_mod=lambda b, h, i, j: (j > 0) & (i > 0)):
        found = ontogeny.measure(run_pass(model, ids))
    assert (found.first_token_share == 0).all() and (found.sink_score.sel(position=1) > 0).all()


def test_rows_that_see_no_key_are_in_no_share():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.attending(model, mask_mod=lambda b, h, i, j: i < 10):
        found = ontogeny.measure(run_pass(model, ids))
    alone = ontogeny.measure(run_pass(model, ids[:, :10]))
    np.testing.assert_allclose(found.first_token_share.sel(layer=0), alone.first_token_share.sel(layer=0), rtol=1e-5)


def test_under_padding_the_bound_is_that_of_the_sequences_own_tokens(monkeypatch):
    """Of 10 tokens a head that spreads evenly has one sink, its first key; by the bound of 40 it had many."""
    monkeypatch.setattr("ontogeny.probes.sinks.ACT_MULTIPLE", 2.5)
    model, ids = tiny("llama"), token_ids(1, LENGTH)
    model.model.layers[0].self_attn.q_proj.weight.zero_()
    mask = torch.zeros_like(ids)
    mask[:, :10] = 1
    found = ontogeny.measure(run_pass(model, ids, mask), positions=None).act_sink_rate.sel(layer=0)
    even = np.tril(1 / np.arange(1, 11)[:, None] * np.ones(10))
    alpha = even.sum(0) / np.arange(10, 0, -1)
    np.testing.assert_array_equal(found[0, :10], alpha > 2.5 / 10)
    assert (alpha > 2.5 / 40).sum() > 1
    assert found[:, 0].all() and not found[:, 1].any() and found[:, 10:].isnull().all()
