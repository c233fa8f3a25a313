"""Walks along the attention: against the same walks taken one move at a time, and against the exact chain."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.probes.capture import WALKS, run_pass
from ontogeny.probes.capture import walks as walks_module
from ontogeny.probes.capture.walks import MOVES, SEED, WALKS_A_HEAD, walk_entropy
from tests.models import FAMILIES, tiny, token_ids
from tests.probes.plain import HEADS, LAYERS, LENGTH, SEQUENCES, measured_of, plain_of


def walked(attention, draws, start):
    """The places met by one walk from `start`, a move for each draw: the first key whose sum exceeds it."""
    places, place = [], start
    for draw in draws:
        row = attention[place] / attention[place].sum()
        total, key = row[0], 0
        while total <= draw:
            key += 1
            total += row[key]
        place = key
        places.append(place)
    return places


def entropy(tokens):
    shares = [count / len(tokens) for count in Counter(tokens).values()]
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize("family", FAMILIES)
def test_entropies_equal_those_of_walks_a_move_at_a_time(family):
    """In float64, where maps are near enough that no walk takes another turn."""
    found = measured_of(family, torch.float64).walk_entropy
    maps, ids = plain_of(family).maps, token_ids(SEQUENCES, LENGTH).tolist()
    draws = np.random.default_rng(SEED).random((max(MOVES), WALKS_A_HEAD))
    for layer, head in np.ndindex(LAYERS, HEADS):
        met = [
            [ids[n][place] for place in walked(maps[n, layer, head], draws[:, walk], LENGTH - 1)]
            for n in range(SEQUENCES)
            for walk in range(WALKS_A_HEAD)
        ]
        for moves in MOVES:
            expected = np.mean([entropy(tokens[:moves]) for tokens in met])
            assert float(found.sel(layer=layer, head=head, moves=moves)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.dims == ("layer", "head", "moves") and found.moves.values.tolist() == [4, 16, 64]
    assert found.std() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_hardly_a_walk_takes_another_turn(family):
    found, exact = (measured_of(family, dtype).walk_entropy for dtype in (torch.float32, torch.float64))
    assert (abs(found - exact) > 1e-5).mean() < 0.05 and abs(found - exact).max() < 0.05


def chain(length, seed=0, causal=True):
    scores = torch.randn(1, 1, length, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if causal:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    return scores.softmax(-1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("moves", [1, 2, 5])
def test_walks_are_where_the_powers_of_the_map_say(moves, causal, monkeypatch):
    """The last token of 40000 walks of `moves` moves: its frequencies are the last row of the map's power."""
    walks, length = 40_000, 4
    monkeypatch.setattr(walks_module, "WALKS_A_HEAD", walks)
    monkeypatch.setattr(walks_module, "MOVES", (moves,))
    kept = []
    monkeypatch.setattr(
        walks_module, "_entropy_of_counts", lambda tokens: kept.append(tokens) or tokens.double()[..., 0]
    )
    attention = chain(length, causal=causal)
    walk_entropy(attention, torch.arange(length)[None], torch.ones(1, length, dtype=torch.bool))
    expected = torch.linalg.matrix_power(attention[0, 0], moves)[-1]
    share = torch.bincount(kept[0][0, 0, :, -1], minlength=length) / walks
    error = (expected * (1 - expected) / walks).sqrt()
    assert (abs(share - expected) <= 4 * error).all()
    assert (expected > 0.02).sum() >= 2


@pytest.mark.parametrize("causal", [True, False])
def test_entropies_are_the_expected_ones_of_the_exact_chain(causal, monkeypatch):
    """All trajectories of three moves over three tokens, by their probabilities."""
    monkeypatch.setattr(walks_module, "WALKS_A_HEAD", 40_000)
    monkeypatch.setattr(walks_module, "MOVES", (3,))
    attention = chain(3, causal=causal)
    found = walk_entropy(attention, torch.arange(3)[None], torch.ones(1, 3, dtype=torch.bool)).item()
    a, mean, square = attention[0, 0].numpy(), 0.0, 0.0
    for i, j, k in np.ndindex(3, 3, 3):
        chance, value = a[2, i] * a[i, j] * a[j, k], entropy([i, j, k])
        mean, square = mean + chance * value, square + chance * value**2
    error = ((square - mean**2) / 40_000) ** 0.5
    assert error > 1e-4 and abs(found - mean) < 4 * error


def test_a_head_that_looks_at_one_token_has_no_entropy_and_one_that_goes_round_all_of_it():
    length = 8
    still, around = torch.zeros(1, 1, length, length), torch.zeros(1, 1, length, length)
    still[..., 0] = 1
    for row in range(length):
        around[..., row, (row + 1) % length] = 1
    ids, valid = torch.arange(length)[None], torch.ones(1, length, dtype=torch.bool)
    assert walk_entropy(still, ids, valid).abs().max() < 1e-7
    expected = torch.tensor([math.log(4), math.log(8), math.log(8)])
    torch.testing.assert_close(walk_entropy(around, ids, valid)[0, 0], expected)
    pairs = torch.arange(length)[None] // 2  # two positions hold one token
    torch.testing.assert_close(
        walk_entropy(around, pairs, valid)[0, 0], torch.tensor([math.log(2)] + [math.log(4)] * 2)
    )


def test_where_the_winner_takes_all_the_entropy_falls_as_a_walk_goes_on():
    """A walk that wanders over the tail and is caught by the first token in the end, as a sink catches it."""
    length = 64
    attention = torch.tril(torch.ones(1, 1, length, length))
    attention = attention / attention.sum(-1, keepdim=True)
    short, middle, long = walk_entropy(attention, torch.arange(length)[None], torch.ones(1, length, dtype=torch.bool))[
        0, 0
    ].tolist()
    assert long < middle and long < short


def test_a_walk_that_comes_to_a_row_without_keys_is_not_measured():
    attention = chain(5).repeat(1, 2, 1, 1)
    attention[0, 1, 0] = 0  # the row to which every walk comes in the end
    found = walk_entropy(attention, torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool))
    assert found[0, 0].isfinite().all() and found[0, 1].isnan().all()


def test_a_sequence_without_a_number_is_in_no_mean():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.attending(model, mask_mod=lambda b, h, i, j: (b > 0) | (h != 1)):
        both = ontogeny.measure(run_pass(model, ids, needs={WALKS}), probes="walks").walk_entropy.sel(layer=0)
    plain = run_pass(model, ids, needs={WALKS}).layers[0].walk_entropy
    np.testing.assert_allclose(both.sel(head=1), plain[1, 1], rtol=1e-6)
    np.testing.assert_allclose(both.drop_sel(head=1), plain.mean(0)[[0, 2, 3]], rtol=1e-6)


def test_rows_that_do_not_sum_to_one_are_chains_by_their_shares():
    attention, ids = chain(9), torch.arange(9)[None]
    valid = torch.ones(1, 9, dtype=torch.bool)
    scaled = attention * torch.linspace(0.01, 3, 9)[:, None]
    torch.testing.assert_close(walk_entropy(scaled, ids, valid), walk_entropy(attention, ids, valid), rtol=0, atol=0)


def test_maps_that_walks_need_are_not_kept():
    trace = run_pass(tiny("llama"), token_ids(2, LENGTH), needs={WALKS})
    assert all(layer.map is None and layer.walk_entropy.shape == (2, HEADS, 3) for layer in trace.layers)
    assert trace.depths == ()
