"""Projections of weights against the dense product, and how well they keep distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.dynamics.audit.fingerprint import BLOCK, PROJECTIONS, project_weights, signs
from tests.models import tiny


class Weights(torch.nn.Module):
    def __init__(self, **values: torch.Tensor) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, torch.nn.Parameter(value))


def flat(model: torch.nn.Module) -> np.ndarray:
    named = sorted(model.named_parameters())
    return np.concatenate([parameter.detach().double().numpy().ravel() for _, parameter in named])


def of(values: np.ndarray) -> np.ndarray:
    return project_weights(Weights(weight=torch.from_numpy(values)))


def test_they_are_the_product_with_a_dense_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"b": 16 * BLOCK + 5, "a": 2 * BLOCK, "c": 7}
    values = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    matrix, blocks = signs(0, BLOCK), signs(2**32, 2 + 17 + 1)
    expected, block = np.zeros(PROJECTIONS), 0
    for name in "abc":
        for start in range(0, sizes[name], BLOCK):
            piece = values[name][start : start + BLOCK].double().numpy()
            dense = matrix[: len(piece)] * blocks[block] / 8
            expected += piece @ dense
            block += 1
    np.testing.assert_allclose(project_weights(Weights(**values)), expected, rtol=1e-9, atol=1e-9)


def test_the_signs_are_fixed_and_even() -> None:
    drawn = signs(0, BLOCK)
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert np.abs(drawn.mean(0)).max() < 5 / BLOCK**0.5
    assert np.abs(drawn.T @ drawn - BLOCK * np.eye(PROJECTIONS)).max() < 6 * BLOCK**0.5
    np.testing.assert_array_equal(signs(100, 5), drawn[100:105])


def test_the_same_weights_give_the_same_bits() -> None:
    model = tiny("gpt_neox", 3)
    assert project_weights(model).tobytes() == project_weights(tiny("gpt_neox", 3)).tobytes()
    assert np.abs(project_weights(model) - project_weights(tiny("gpt_neox", 4))).max() > 1


def test_tied_weights_count_once() -> None:
    tied = tiny("llama", tie_word_embeddings=True)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    untied = Weights(**{name.replace(".", "_"): value.detach() for name, value in tied.named_parameters()})
    assert len(flat(tied)) == len(flat(untied)) == sum(one.numel() for one in tied.parameters())


def test_distances_are_kept_within_their_error() -> None:
    """The squared ratio has the standard deviation sqrt(2 / 64) = 0.177; over 40 pairs its mean 0.028."""
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        one, other = rng.normal(size=(2, 3 * BLOCK + 100)) * rng.exponential(size=3 * BLOCK + 100)
        estimate = np.sum((of(one) - of(other)) ** 2)
        ratios.append(estimate / np.sum((one - other) ** 2))
    assert abs(np.mean(ratios) - 1) < 4 * 0.177 / 40**0.5
    assert 0.1 < np.std(ratios) < 0.26
    assert max(abs(ratio - 1) for ratio in ratios) < 4 * 0.177


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_precision_does_not_matter(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert project_weights(Weights(w=values)).tobytes() == project_weights(Weights(w=values.float())).tobytes()
