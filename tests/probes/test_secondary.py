"""Secondary sinks: against loops over the residual stream, and planted ones found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.residual import reduce_residual
from tests.models import FAMILIES, tiny, token_ids
from tests.probes.plain import FLOATS, LAYERS, LENGTH, SEQUENCES, in_dtype, measured, plain_of


def cosines(states):
    """|cosine| to the first token, (L + 1, T), of the states of one sequence, pair by pair."""
    found = np.zeros(states.shape[:2])
    for depth, token in np.ndindex(found.shape):
        one, first = states[depth, token], states[depth, 0]
        found[depth, token] = abs(sum(one * first)) / (sum(one * one) * sum(first * first)) ** 0.5
    return found


def longest(alike):
    """Position, first block and length of the longest run of blocks, by comparing every run; -1, -1, 0 for none."""
    best = (-1, -1, 0)
    for token in range(1, alike.shape[1]):
        for start in range(LAYERS):
            for end in range(start + 1, LAYERS + 1):
                if alike[start + 1 : end + 1, token].all() and end - start > best[2]:
                    best = (token, start, end - start)
    return best


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_secondary_sinks_equal_loops_over_the_residual_stream(family, dtype, monkeypatch):
    monkeypatch.setattr("ontogeny.probes.secondary.SECONDARY_COSINE", 0.45)
    found = measured(in_dtype(family, dtype), names=("secondary",))
    none = 0
    for n, states in enumerate(plain_of(family).states):
        alike = cosines(states) > 0.45
        np.testing.assert_array_equal(found.secondary_sinks.sel(sequence=n), alike[:, 1:].sum(1))
        names = ("secondary_position", "secondary_start", "secondary_lifetime")
        expected = longest(alike)
        assert tuple(int(found[name].sel(sequence=n)) for name in names) == expected
        none += expected[2] == 0
    assert none < SEQUENCES and found.secondary_sinks.sum() > 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cosines_equal_loops(family, dtype):
    model = in_dtype(family, dtype)
    trace = run_pass(model, token_ids(SEQUENCES, LENGTH))
    for depth, one in enumerate(trace.depths):
        expected = np.stack([cosines(states[depth : depth + 1])[0] for states in plain_of(family).states])
        atol = 1e-12 if dtype == torch.float64 else 1e-5
        np.testing.assert_allclose(one.first_cosine.abs(), expected, rtol=0, atol=atol)


def planted(layers=5, places=((5, 1, 2),), factor=3.0, first=0):
    """A model in which tokens turn, at places (token, first block, blocks), into `factor` times the first one's state.

    After every other block each of those tokens' states is one of its own.
    """
    model = tiny("llama", num_hidden_layers=layers)
    own = torch.linspace(-1, 1, 32)

    def plant(block):
        def act(_module, _args, out):
            out = out.clone()
            for token, start, blocks in places:
                there = start <= block < start + blocks
                out[:, token] = factor * out[:, first] if there else own
            return out

        return act

    for block, module in enumerate(model.model.layers):
        module.register_forward_hook(plant(block))
    return model


@pytest.mark.parametrize("factor", [3.0, -0.01])
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (((5, 1, 2),), (5, 1, 2)),
        (((5, 1, 2), (9, 2, 3)), (9, 2, 3)),
        (((5, 0, 2), (9, 3, 2)), (5, 0, 2)),  # of equal ones the first token
        (((30, 0, 5),), (30, 0, 5)),
    ],
)
def test_a_planted_sink_is_found_with_its_blocks(places, expected, factor):
    found = measured(planted(places=places, factor=factor), names=("secondary",))
    names = ("secondary_position", "secondary_start", "secondary_lifetime")
    for name, value in zip(names, expected, strict=True):
        assert (found[name] == value).all(), name
    counts = [sum(start <= block < start + blocks for _, start, blocks in places) for block in range(5)]
    assert (found.secondary_sinks[:, 1:] == counts).all()


def test_padding_on_the_left_moves_the_first_token():
    ids, mask = torch.arange(3, 3 + LENGTH).repeat(2, 1), torch.ones(2, LENGTH, dtype=torch.long)
    mask[:, :7] = 0
    found = ontogeny.measure(run_pass(planted(places=((12, 1, 2),), first=7), ids, mask))
    assert (found.secondary_position == 12).all() and (found.secondary_lifetime == 2).all()


def test_where_no_token_turns_there_is_no_secondary_sink():
    found = measured(planted(places=()), names=("secondary",))
    quiet = found.secondary_lifetime == 0
    assert quiet.any()
    assert (found.secondary_position[quiet] == -1).all() and (found.secondary_start[quiet] == -1).all()


def test_the_first_token_again_is_one_before_the_first_block_but_has_no_blocks():
    ids = token_ids(SEQUENCES, LENGTH)
    ids[:, 11] = ids[:, 0]
    found = measured(planted(places=((11, 5, 0),)), names=("secondary",), ids=ids)
    assert (found.secondary_sinks.sel(depth=0) == (ids[:, 1:] == ids[:, :1]).sum(1).numpy()).all()
    assert (found.secondary_position != 11).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosines_do_not_depend_on_the_scale(scale):
    state = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reduce_residual(state * scale).first_cosine, reduce_residual(state).first_cosine)


def test_a_state_that_is_zero_points_nowhere():
    state = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    state[:, 2] = 0
    cosine = reduce_residual(state).first_cosine
    assert cosine[0, 2] == 0 and cosine[0, 0] == pytest.approx(1)
    state[:, 0] = 0
    assert (reduce_residual(state).first_cosine == 0).all()
