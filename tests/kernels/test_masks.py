"""The sparse masks against their definitions, and the blocked path that skips what they hide."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from ontogeny.errors import OntogenyError
from ontogeny.kernels import MECHANISMS, attention_stats
from ontogeny.kernels.blocked.problem import BLOCK_ROWS, Problem
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.masks import big_bird, power_attention, sliding_window

MASKS = {
    "window": sliding_window(5),
    "big bird": big_bird(150, block=16, random_blocks=2),
    "big bird, causal": big_bird(150, block=16, random_blocks=2, causal=True),
    "power": power_attention(),
    "power, in blocks": power_attention(8),
}


def as_matrix(mask_mod, length):
    i, j = torch.arange(length)[:, None], torch.arange(length)
    zero = torch.zeros((), dtype=torch.long)
    return mask_mod(zero, zero, i, j)


def test_the_window_reaches_both_ways():
    seen = as_matrix(sliding_window(3), 8)
    assert seen[4].tolist() == [False, False, True, True, True, True, True, False]


def test_power_attention_looks_back_by_powers_of_two():
    seen = as_matrix(power_attention(), 20)
    assert (19 - seen[19].nonzero().squeeze(1)).tolist() == [16, 8, 4, 2, 1, 0]


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_power_attention_reaches_two_to_the_layers(layers):
    reach = torch.linalg.matrix_power(as_matrix(power_attention(), 40).double(), layers) > 0
    back = 39 - reach[39].nonzero().squeeze(1)
    assert set(range(2**layers)) <= set(back.tolist())
    assert 2 ** (layers + 1) - 1 not in back


def test_big_bird_has_its_blocks():
    seen = as_matrix(big_bird(160, block=16, window_blocks=3, global_blocks=1, random_blocks=2, seed=3), 160)
    blocks = seen.view(10, 16, 10, 16)
    whole = blocks.all(3).all(1)
    assert torch.equal(whole, blocks.any(3).any(1))
    assert whole[0].all() and whole[:, 0].all()
    assert all(whole[b, max(b - 1, 0) : b + 2].all() for b in range(10))
    assert whole[4:8].sum(1).tolist() == [1 + 3 + 2] * 4


def test_big_bird_draws_from_the_past_when_causal():
    seen = as_matrix(big_bird(160, block=16, random_blocks=2, causal=True), 160).view(10, 16, 10, 16).any(3).any(1)
    for row in range(6, 9):
        assert seen[row, : row + 1].sum() == 1 + 2 + 2
        assert seen[row, row + 2 :].sum() == 0


def test_big_bird_is_seeded():
    one, same, other = (as_matrix(big_bird(640, seed=seed), 640) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("name", MASKS)
def test_flex_attention_reads_the_same_mask(name):
    expected = as_matrix(MASKS[name], 150)
    assert torch.equal(create_mask(MASKS[name], None, None, 150, 150, device="cpu")[0, 0], expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("mechanism", ["softmax", "softmax_sink", "sigmoid", "entmax15"])
def test_blocked_equals_reference_under_a_mask_function(name, causal, mechanism):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 150, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    mask = torch.ones(2, 150, dtype=torch.bool)
    mask[0, :40] = False
    wanted = torch.tensor([0, 41, 149])
    arguments = {"scale": 0.5, "causal": causal, "mask_mod": MASKS[name], "mask": mask, "mechanism": mechanism}
    found, expected = (
        attention_stats(q, k, v, **arguments, rows=wanted, columns=wanted, impl=impl)
        for impl in ("blocked", "reference")
    )
    for field, value in vars(expected).items():
        if value is not None:
            torch.testing.assert_close(getattr(found, field), value, rtol=1e-10, atol=1e-10, msg=field)


def test_a_mask_may_differ_by_sequence_and_head():
    def own(b, h, i, j):
        return (j <= i) & ((i + j + b + h) % 2 == 0)

    q, k, v = (torch.randn(2, heads, 70, 8, dtype=torch.float64) for heads in (4, 2, 2))
    found, expected = (
        attention_stats(q, k, v, scale=0.5, causal=True, mask_mod=own, impl=impl) for impl in ("blocked", "reference")
    )
    torch.testing.assert_close(found.entropy, expected.entropy)
    torch.testing.assert_close(found.visible_rows, expected.visible_rows)
    assert not torch.equal(found.visible_rows[0, 0], found.visible_rows[0, 1])


def test_hidden_keys_are_never_scored():
    q, k, v = (torch.randn(1, 8, 2048, 16) for _ in range(3))

    def scored(mask_mod):
        inputs = AttentionInputs(q, k, v, 0.25, causal=True, mechanism=MECHANISMS["softmax"], mask_mod=mask_mod)
        blocks = list(Problem(inputs).blocks())
        return (
            sum(len(block.key_indices(q.device)) for block in blocks)
            * BLOCK_ROWS
            / len({b.units.start for b in blocks})
        )

    assert scored(sliding_window(64)) <= 2048 * 128
    assert scored(power_attention(64)) <= 2048 * 64 * 7
    assert scored(lambda b, h, i, j: j <= i) == pytest.approx(2048 * 2048 / 2, rel=0.05)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sliding_window(0), "width: expected a whole number, at least 1, got 0"),
        (lambda: sliding_window(2.5), "width: expected a whole number, at least 1, got 2.5"),
        (lambda: power_attention(0), "block: expected a whole number, at least 1"),
        (lambda: big_bird(100, window_blocks=2), "window_blocks: expected an odd number"),
        (lambda: big_bird(100, random_blocks=-1), "random_blocks: expected a whole number, at least 0, got -1"),
    ],
)
def test_impossible_masks_are_refused(make, words):
    with pytest.raises(OntogenyError, match=words):
        make()


@pytest.mark.parametrize(
    ("mask_mod", "words"),
    [
        (big_bird(32, block=8), "mask_mod: made for 32 tokens, got 64"),
        (lambda b, h, i, j: (j <= i).long(), "mask_mod: expected it to return a bool tensor, got torch.int64"),
        (lambda b, h, i, j: None, "mask_mod: expected it to return a bool tensor, got NoneType"),
        (lambda b, h, i, j: torch.ones(3, dtype=torch.bool), "mask_mod: expected a result that broadcasts"),
        (torch.ones(64, 64), "mask_mod: expected a function"),
    ],
)
@pytest.mark.parametrize("impl", ["blocked", "reference"])
def test_a_mask_function_that_does_not_fit_is_refused(mask_mod, words, impl):
    q = torch.randn(1, 2, 64, 8)
    with pytest.raises(OntogenyError, match=words):
        attention_stats(q, q, q, scale=0.3, causal=True, mask_mod=mask_mod, impl=impl)
