"""Heads that rest on a sink and whether the model needs them: equal to a loop, and true of planted heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.probes import ProbeSettings, dormancy
from ontogeny.probes.batches import Batches
from tests.models import tiny, token_ids
from tests.probes.plain_ablation import double, maps_and_states, plain_losses, score

SEQUENCES, LENGTH = 3, 24
WINDOWED = ("mistral", "gemma2", "gpt_oss")


def measured(model, batch_size=SEQUENCES):
    batches = Batches(token_ids(SEQUENCES, LENGTH), batch_size, torch.device("cpu"))
    return dormancy.DormancyExperiment(ProbeSettings(LENGTH)).run(model, batches, "auto")


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "mistral", "gemma2", "gpt_oss"])
def test_the_loss_without_a_head_is_that_of_a_map_of_zeros(family, monkeypatch):
    monkeypatch.setattr(dormancy, "DORMANT_SHARE", 0.16)
    model = double(tiny(family, **({"sliding_window": 20} if family in WINDOWED else {})))
    ids = token_ids(SEQUENCES, LENGTH)
    found = measured(model)
    maps, _ = maps_and_states(model, ids, monkeypatch)
    plain = np.mean(plain_losses(model, ids, monkeypatch))
    for layer, head in np.ndindex(3, 4):
        scores = [[score(maps[one, layer], head, key) for key in range(LENGTH)] for one in range(SEQUENCES)]
        share = np.mean([max(alpha for alpha, rows in keys if rows >= 16) for keys in scores])
        one = found.sel(layer=layer, head=head)
        assert float(one.top_sink_share) == pytest.approx(share, rel=1e-5)
        assert np.isfinite(one.head_loss_change) == (share > 0.16)
        if share <= 0.16:
            continue

        def silence(_sequence, at, attention_map, layer=layer, head=head):
            if at == layer:
                attention_map[head] = 0
            return attention_map

        change = np.mean(plain_losses(model, ids, monkeypatch, silence)) - plain
        assert float(one.head_loss_change) == pytest.approx(change, rel=1e-5, abs=1e-6)
        assert bool(one.dormant) == (abs(change) < 0.001)
    assert int(np.isfinite(found.head_loss_change).sum()) > 0


def rest_on_the_first_token(model, layer, head):
    """Make a head of a Llama attend to token 1, which comes first, alone: its values then are those of that token."""
    attention, width = model.model.layers[layer].self_attn, 8
    rows = slice(head * width, (head + 1) * width)
    attention.q_proj.weight[rows] = 0
    attention.q_proj.bias[rows] = 0
    attention.q_proj.bias[rows][3] = attention.q_proj.bias[rows][7] = 300  # the slowest rotation, nearly none
    attention.k_proj.weight[rows] = 0
    attention.k_proj.weight[rows][7] = attention.k_proj.weight[rows][3] = model.model.embed_tokens.weight[1]
    attention.k_proj.bias[rows] = 0
    return rows


@pytest.fixture
def planted():
    """A model whose heads 0 and 1 of block 0 both rest on the first token; nothing reads head 0."""
    model = tiny("llama", attention_bias=True, num_key_value_heads=4)
    read = rest_on_the_first_token(model, 0, 1)
    unread = rest_on_the_first_token(model, 0, 0)
    output = model.model.layers[0].self_attn.o_proj.weight
    output[:, unread] = 0
    assert output[:, read].abs().sum() > 0
    return model


def test_a_head_that_nothing_reads_is_dormant_and_one_that_matters_is_not(planted):
    ids = token_ids(SEQUENCES, LENGTH)
    ids[:, 0] = 1
    batches = Batches(ids, 2, torch.device("cpu"))
    found = dormancy.DormancyExperiment(ProbeSettings(LENGTH)).run(planted, batches, "auto").isel(layer=0)
    assert (found.top_sink_share[:2] > 0.8).all()
    assert found.dormant[:2].values.tolist() == [1, 0]
    assert float(found.head_loss_change[0]) == pytest.approx(0, abs=1e-5)
    assert abs(float(found.head_loss_change[1])) > 0.01
    assert found.attrs == {"dormant_share": 0.8, "dormant_loss": 0.001}


def test_only_heads_that_rest_on_a_key_are_tried():
    found = measured(tiny("gpt_neox"))
    rests = (found.top_sink_share > 0.8).values
    np.testing.assert_array_equal(np.isfinite(found.head_loss_change), rests)
    assert (found.dormant.values[~rests] == 0).all()


def test_batches_change_nothing(monkeypatch):
    monkeypatch.setattr(dormancy, "DORMANT_SHARE", 0.16)
    whole = measured(tiny("llama"))
    assert np.isfinite(whole.head_loss_change).any()
    for batch_size in (1, 2):
        found = measured(tiny("llama"), batch_size)
        np.testing.assert_allclose(found.top_sink_share, whole.top_sink_share, rtol=1e-5)
        np.testing.assert_allclose(found.head_loss_change, whole.head_loss_change, atol=1e-5)
