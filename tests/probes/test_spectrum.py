"""Entropies of singular values: against numpy's decomposition, with a massive token, and where they are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ontogeny.probes.capture.spectrum import spectral_measures


def plain(matrix):
    singular = np.linalg.svd(matrix, compute_uv=False)
    singular = singular[singular > 1e-12 * singular[0]]
    p, q = singular**2 / (singular**2).sum(), singular / singular.sum()
    return -(p * np.log(p)).sum(), p[0], np.exp(-(q * np.log(q)).sum())


def everything(state):
    return torch.ones(len(state), 1, state.shape[1], dtype=torch.bool)


@pytest.mark.parametrize("massive", [1.0, 1e4])
@pytest.mark.parametrize(("length", "width"), [(64, 576), (96, 32), (48, 48)])
def test_they_are_those_of_the_decomposition(length, width, massive):
    """Also where one token, or one dimension, has 10,000 times the norm of the rest, and where tokens come twice."""
    state = torch.randn(3, length, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state[1:, length // 3 : 2 * (length // 3)] = state[1:, : length // 3]
    state[:2, 0] *= massive
    state[2, :, 3] *= massive
    counted = torch.ones(3, 2, length, dtype=torch.bool)
    counted[:, 1, ::5] = False
    found = torch.stack(spectral_measures(state, counted), -1)
    expected = [[plain(one[keep]) for keep in kinds] for one, kinds in zip(state, counted, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12 if massive == 1 else 1e-6)
    assert massive == 1 or (found[0, 0, 1] > 0.9999 and found[0, 1, 1] < 0.2)


def test_orthogonal_states_of_one_norm_have_full_rank():
    entropy, share, rank = spectral_measures(torch.eye(6)[None] * 3, torch.ones(1, 1, 6, dtype=torch.bool))
    assert float(entropy) == pytest.approx(math.log(6)) and float(share) == pytest.approx(1 / 6)
    assert float(rank) == pytest.approx(6)


def test_they_are_not_centred():
    state = torch.ones(1, 8, 4) + 1e-3 * torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    assert float(spectral_measures(state, everything(state))[1]) > 0.999


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_no_scale_overflows_or_vanishes(scale):
    state = torch.randn(1, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, other in zip(*(spectral_measures(x, everything(x)) for x in (state, state * scale)), strict=True):
        torch.testing.assert_close(one, other)
