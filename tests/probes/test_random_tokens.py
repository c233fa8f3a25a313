"""The random-token baseline: the numbers of `clusters` on the drawn ids, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.probes.random_tokens import random_ids, reordered_ids
from tests.models import VOCAB, tiny, tiny_falcon, token_ids
from tests.probes.plain import LENGTH, SEQUENCES, measured

BASELINES = {
    "_random": (lambda ids: random_ids(ids, VOCAB), ", of random tokens"),
    "_reordered": (reordered_ids, ", of the same tokens in random order"),
}


@pytest.mark.parametrize("shared_first", [False, True])
def test_it_gives_the_numbers_of_clusters_on_the_drawn_ids(shared_first):
    model, ids = tiny("llama"), token_ids(SEQUENCES, LENGTH)
    if shared_first:
        ids[:, 0] = 1
    found = measured(model, names=("clusters", "random_tokens"), ids=ids)
    for suffix, (draw, words) in BASELINES.items():
        expected = measured(model, names=("clusters",), ids=draw(ids))
        baseline = [str(name) for name in found.data_vars if str(name).endswith(suffix)]
        assert len(baseline) == 11
        for name in baseline:
            of_clusters = expected[name.removesuffix(suffix)]
            np.testing.assert_array_equal(found[name], of_clusters, err_msg=name)
            assert found[name].dims == of_clusters.dims
            assert found[name].attrs["long_name"] == f"{of_clusters.attrs['long_name']}{words}"
            if "tokens" not in name:
                assert not found[name].equals(found[name.removesuffix(suffix)])
    assert found.attrs["random_tokens_seed"] == 20241010


def test_ids_are_drawn_from_the_whole_vocabulary_and_a_shared_first_token_stays():
    ids = token_ids(50, 40)
    drawn = random_ids(ids, VOCAB)
    assert drawn.shape == ids.shape and set(drawn.flatten().tolist()) == set(range(VOCAB))
    counts = torch.bincount(drawn.flatten(), minlength=VOCAB)
    assert (counts - 2000 / VOCAB).abs().max() < 5 * (2000 / VOCAB) ** 0.5
    assert torch.equal(random_ids(ids, VOCAB), drawn) and len(set(drawn[:, 0].tolist())) > 20
    ids[:, 0] = 1
    assert (random_ids(ids, VOCAB)[:, 0] == 1).all() and torch.equal(random_ids(ids, VOCAB)[:, 1:], drawn[:, 1:])


def test_reordered_sequences_keep_their_tokens_and_a_shared_first_one_its_place():
    ids = token_ids(50, 40)
    order = reordered_ids(ids)
    assert torch.equal(order.sort(1).values, ids.sort(1).values) and (order != ids).float().mean() > 0.8
    assert not torch.equal(reordered_ids(torch.arange(40).repeat(2, 1) + torch.tensor([[0], [1]]))[0], torch.arange(40))
    ids[:, 0] = 1
    order = reordered_ids(ids)
    assert (order[:, 0] == 1).all() and torch.equal(order[:, 1:].sort(1).values, ids[:, 1:].sort(1).values)


def test_it_needs_no_attention():
    found = measured(tiny_falcon(), names=("random_tokens",))
    assert found.cluster_count_random.notnull().all()


def test_a_model_without_a_vocabulary_is_refused(monkeypatch):
    model = tiny("llama")
    monkeypatch.delattr(type(model.config), "vocab_size", raising=False)
    del model.config.vocab_size
    found = measured(model, names=("massive", "random_tokens"))
    assert found.attrs["random_tokens"].startswith("unavailable: LlamaForCausalLM has no vocabulary of tokens")
    assert "cluster_count_random" not in found and "massive_ratio" in found
