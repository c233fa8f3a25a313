"""When massive activations come and go, which token and dimension they have: against loops, and planted ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.residual import reduce_residual
from ontogeny.probes.massive import first_run
from tests.models import FAMILIES, tiny, token_ids
from tests.probes.plain import FLOATS, LAYERS, LENGTH, SEQUENCES, close, in_dtype, measured, plain_of


def top_three(size):
    return sorted(np.ndindex(size.shape), key=lambda place: -size[place])[:3]


def run_of(there):
    """First index and length of the first run of True, by walking along it."""
    for start in range(len(there)):
        if there[start]:
            length = 0
            while start + length < len(there) and there[start + length]:
                length += 1
            return start, length
    return -1, 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_massive_activations_equal_loops_over_the_residual_stream(family, dtype, monkeypatch):
    """With bounds that these models cross at some depths and not at others."""
    monkeypatch.setattr("ontogeny.probes.massive.MASSIVE_THRESHOLD", 2.0)
    monkeypatch.setattr("ontogeny.probes.massive.MASSIVE_MULTIPLE", 5.0)
    monkeypatch.setattr("ontogeny.probes.massive.FLOAT16_LARGEST", 2.5)
    found = measured(in_dtype(family, dtype), names=("massive",))
    size, ids = np.abs(plain_of(family).states), token_ids(SEQUENCES, LENGTH)
    largest, median = size.max((2, 3)), np.quantile(size.reshape(*size.shape[:2], -1), 0.5, axis=-1, method="lower")
    massive = (largest > 2) & (largest >= 5 * median)
    for depth in range(LAYERS + 1):
        named = Counter()
        for n in range(SEQUENCES):
            places = top_three(size[n, depth])
            tokens = [int(ids[n, position]) for position, _ in places]
            np.testing.assert_array_equal(found.top_token.sel(sequence=n, depth=depth), tokens)
            named.update({dimension for _, dimension in places})
        ordered = sorted(named, key=lambda dimension: (-named[dimension], dimension))[:3]
        np.testing.assert_array_equal(found.shared_dimension.sel(depth=depth), ordered)
        shares = [named[dimension] / SEQUENCES for dimension in ordered]
        np.testing.assert_allclose(found.shared_dimension_share.sel(depth=depth), shares)
        at = {"depth": depth}
        ratio = sum(largest[:, depth]) / sum(median[:, depth])
        close(found.massive_ratio_of_means.sel(at), ratio, family, dtype)
        assert float(found.massive_rate.sel(at)) == pytest.approx(massive[:, depth].mean())
        relative = [big >= 5 * middle for big, middle in zip(largest[:, depth], median[:, depth], strict=True)]
        assert float(found.massive_rate_relative.sel(at)) == pytest.approx(np.mean(relative))
        assert float(found.float16_overflow_rate.sel(at)) == pytest.approx((largest[:, depth] > 2.5).mean())
    runs = [run_of(one) for one in massive]
    np.testing.assert_array_equal(found.massive_onset, [start for start, _ in runs])
    np.testing.assert_array_equal(found.massive_lifetime, [length for _, length in runs])
    assert (found.saturation_rate == 0).all()


def test_the_loops_see_rates_between_none_and_all():
    """Over the families, the bounds of the test above part the sequences and depths."""
    size = np.stack([np.abs(plain_of(family).states) for family in FAMILIES])
    largest, median = size.max((-1, -2)), np.median(size, axis=(-1, -2))
    for there in (largest > 2, largest > 2.5, largest > 5 * median):
        assert 0.1 < there.mean() < 0.9


BLOCKS, TOKEN, DIMENSION = 6, 9, 21


def planted(size, first=1, last=3, sequences=(0, 2, 3), dtype=torch.float32):
    """A model in which a block writes `size` at one token and dimension of some sequences, and a later one zeroes it.

    The magnitude is there after the blocks `first` to `last`.
    """
    model = tiny("llama", num_hidden_layers=BLOCKS).to(dtype)

    def act(block):
        def plant(_module, _args, out):
            out = out.clone()
            for sequence in sequences:
                if block >= first:
                    out[sequence, TOKEN, DIMENSION] = size if block <= last else 0.0
            return out

        return plant

    for block, module in enumerate(model.model.layers):
        module.register_forward_hook(act(block))
    return model


@pytest.mark.parametrize("size", [1e6, -1e6])
@pytest.mark.parametrize(("first", "last"), [(1, 3), (0, 0), (2, BLOCKS - 1), (0, BLOCKS - 1)])
def test_a_planted_massive_activation_is_found_with_its_life(first, last, size):
    sequences = [0, 2, 3]
    found = measured(planted(size, first, last, sequences), names=("massive",), batch_size=SEQUENCES)
    there, ids = np.isin(np.arange(SEQUENCES), sequences), token_ids(SEQUENCES, LENGTH)
    np.testing.assert_array_equal(found.massive_onset, np.where(there, first + 1, -1))
    np.testing.assert_array_equal(found.massive_lifetime, np.where(there, last - first + 1, 0))
    for depth in range(BLOCKS + 1):
        alive = there & (first < depth <= last + 1)
        at = found.sel(depth=depth)
        for name in ("massive_rate", "massive_rate_relative", "float16_overflow_rate"):
            assert float(at[name]) == pytest.approx(alive.mean()), (name, depth)
        top = at.sel(rank=1)
        np.testing.assert_array_equal(top.top_dimension.values[alive], DIMENSION)
        np.testing.assert_array_equal(top.top_position.values[alive], TOKEN)
        np.testing.assert_array_equal(top.top_token.values[alive], ids[alive, TOKEN])
        assert (top.top_activation.values[alive] == 1e6).all()
        if alive.any():
            assert DIMENSION in at.shared_dimension and at.shared_dimension_share.max() >= 0.6


def test_a_dimension_counts_once_a_sequence_however_many_of_its_tokens_have_it():
    model = tiny("gpt_neox")
    model.gpt_neox.embed_in.weight[:, 17] = 50.0
    found = measured(model, names=("massive",)).sel(depth=0)
    assert (found.top_dimension == 17).all()
    assert found.shared_dimension.values.tolist() == [17, -1, -1]
    assert found.shared_dimension_share.values.tolist() == [1.0, 0.0, 0.0]


def test_a_magnitude_that_is_small_but_stands_out_is_massive_relatively_alone():
    model = tiny("gpt_neox")
    model.gpt_neox.embed_in.weight.mul_(1e-5)
    model.gpt_neox.embed_in.weight[7, 3] = 50.0
    found, has = measured(model, names=("massive",)).sel(depth=0), (token_ids(SEQUENCES, LENGTH) == 7).any(1)
    assert 0 < has.double().mean() < 1
    assert float(found.massive_rate) == 0 and float(found.massive_rate_relative) == pytest.approx(has.double().mean())


@pytest.mark.parametrize(
    ("dtype", "below", "above"),
    [(torch.float16, 32736.0, 32752.0), (torch.bfloat16, 1.6e38, 1.8e38), (torch.float32, 1.70e38, 1.702e38)],
)
def test_saturation_is_half_of_what_the_dtype_holds(dtype, below, above):
    state = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    state[0, 2, 3], state[1, 2, 3], state[2, 2, 3] = below, above, -above
    found = reduce_residual(state)
    assert found.saturated.tolist() == [False, True, True]
    assert found.first_cosine.isfinite().all() and found.top_activation.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "size", "saturates", "overflows"),
    [
        (torch.float16, 40_000.0, True, False),
        (torch.float16, 30_000.0, False, False),
        (torch.bfloat16, 70_000.0, False, True),
        (torch.float32, 65_504.0, False, False),
        (torch.float32, 65_505.0, False, True),
    ],
)
def test_a_planted_magnitude_that_a_dtype_barely_holds(dtype, size, saturates, overflows):
    found = measured(planted(size, 1, 2, (1,), dtype), names=("massive",), batch_size=SEQUENCES)
    there = np.array([0, 0, 1, 1, 0, 0, 0]) / SEQUENCES
    np.testing.assert_allclose(found.saturation_rate, there * saturates)
    np.testing.assert_allclose(found.float16_overflow_rate, there * overflows)


def test_padding_does_not_saturate():
    state = torch.ones(1, 6, 8, dtype=torch.float16)
    state[0, 5] = 60_000.0
    valid = torch.tensor([[True] * 5 + [False]])
    assert not reduce_residual(state, valid).saturated.any() and reduce_residual(state).saturated.all()


def test_without_token_ids_there_is_no_top_token():
    model = tiny("llama")
    with ontogeny.capture(model) as trace:
        model(inputs_embeds=model.get_input_embeddings()(token_ids(2, LENGTH)))
    found = ontogeny.measure(trace, probes="massive")
    assert "top_token" not in found and "top_position" in found


@pytest.mark.parametrize(
    ("there", "start", "length"),
    [("0110", 1, 2), ("1011", 0, 1), ("0000", -1, 0), ("0001", 3, 1), ("1111", 0, 4), ("0101", 1, 1)],
)
def test_first_runs_by_hand(there, start, length):
    found = first_run(np.array([[one == "1" for one in there]]))
    assert [one.tolist() for one in found] == [[start], [length]]


def test_an_activation_that_is_not_finite_at_the_end_is_refused_rather_than_called_saturated():
    with pytest.raises(OntogenyError, match="not finite"):
        run_pass(planted(float("inf"), 1, BLOCKS - 1), token_ids(SEQUENCES, LENGTH))
