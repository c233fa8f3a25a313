"""Which tokens count as sinks: against a loop over tokens, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.dataset import SELECTIONS
from ontogeny.probes.capture.selection import OUTLIER_NORM, selections


def plain(states, valid):
    """The tokens of one sequence (T, d) that are no sinks, one at a time."""
    norms = [float(np.sqrt(sum(x * x for x in state))) for state in states]
    real = [place for place in range(len(states)) if valid[place]]
    ranked = sorted(norms[place] for place in real)
    median = ranked[(len(ranked) - 1) // 2]
    return [place for place in real[1:] if norms[place] <= OUTLIER_NORM * median]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_it_equals_a_loop_over_tokens(padding):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(6, 21, 8, generator=generator, dtype=torch.float64)
    state *= torch.exp(1.2 * torch.randn(6, 21, 1, generator=generator, dtype=torch.float64))
    valid = torch.ones(6, 21, dtype=torch.bool)
    for row in range(6):
        if padding != "none":
            cut = slice(0, row) if padding == "left" else slice(21 - row, None)
            valid[row, cut], state[row, cut] = False, 1e6
    everything, kept = selections(state, None if padding == "none" else valid)
    assert torch.equal(everything, valid)
    outliers = 0
    for row in range(6):
        expected = plain(state[row].tolist(), valid[row].tolist())
        assert kept[row].nonzero().flatten().tolist() == expected
        outliers += int(valid[row].sum()) - 1 - len(expected)
    assert outliers > 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_norm_of_exactly_five_medians_is_no_outlier(dtype):
    state = torch.tensor([1.0, 1, 1, 5, 5.0625, 1, 1], dtype=dtype)[None, :, None] * torch.tensor([0.0, 1], dtype=dtype)
    assert selections(state, None)[1].tolist() == [[False, True, True, True, False, True, True]]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e36), (torch.float32, 1e-42), (torch.float64, 1e300)])
def test_no_scale_overflows_or_vanishes(dtype, scale):
    state = torch.tensor([1.0, 1, 2, 11, 1], dtype=dtype)[None, :, None].expand(1, 5, 64) * scale
    assert selections(state, None)[1].tolist() == [[False, True, True, False, True]]


def test_zero_states_are_no_outliers_and_what_stands_among_them_is():
    state = torch.zeros(1, 5, 4)
    assert selections(state, None)[1].tolist() == [[False, True, True, True, True]]
    state[0, 3] = 1e-30
    assert selections(state, None)[1].tolist() == [[False, True, True, False, True]]


def test_the_median_is_the_lower_one():
    state = torch.tensor([1.0, 1.0, 3.0, 6.0])[None, :, None]
    assert selections(state, None)[1].tolist() == [[False, True, True, False]]  # of 1, 1, 3, 6 it is 1


def test_names():
    assert SELECTIONS == ("all", "without_sinks")
