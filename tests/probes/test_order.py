"""Order statistics are torch's own, to the bit, and keep no more memory than their result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ontogeny.probes.capture.order import descending, lower_median
from ontogeny.probes.capture.projection import update_norm
from ontogeny.probes.capture.residual import reduce_residual

DENORMAL = torch.tensor([1e-45, 3e-40, 0.0, 1e-42, 1.1754944e-38])


def magnitudes(kind, shape, dtype):
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    values = torch.randn(shape, generator=generator).abs()
    if kind == "tied":
        values = (values * 3).round()
    if kind == "zero":
        values = torch.zeros(shape)
    if kind == "denormal":
        values = DENORMAL[torch.randint(len(DENORMAL), shape, generator=generator)]
    if kind == "massive":
        values[..., ::7] *= 1e30
    return values.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "tied", "zero", "denormal", "massive"])
@pytest.mark.parametrize("shape", [(3, 1), (1, 2), (2, 4097), (8, 12288), (2, 3, 4, 129), (5,)])
def test_numbers_are_torchs(shape, kind, dtype):
    values = magnitudes(kind, shape, dtype)
    before = values.clone()
    median, ordered = lower_median(values), descending(values)
    assert torch.equal(median, values.median(dim=-1).values) and median.dtype == dtype
    assert torch.equal(ordered, values.sort(dim=-1, descending=True).values) and ordered.dtype == dtype
    assert torch.equal(values, before)
    assert median.untyped_storage().nbytes() == median.numel() * median.itemsize


finite = st.floats(0, width=32, allow_infinity=False)


@settings(deadline=None)
@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=finite))
def test_numbers_of_any_magnitudes_are_torchs(values):
    given_values = torch.from_numpy(values)
    assert torch.equal(lower_median(given_values), given_values.median(dim=1).values)
    assert torch.equal(descending(given_values), given_values.sort(dim=1, descending=True).values)


@pytest.mark.parametrize("padded", [False, True])
def test_the_residual_streams_median_is_torchs(padded):
    hidden = torch.randn(3, 40, 33, generator=torch.Generator().manual_seed(0), requires_grad=True)
    valid = torch.ones(3, 40, dtype=torch.bool)
    valid[0, :7] = valid[2, 30:] = False
    with torch.no_grad():
        found = reduce_residual(hidden, valid if padded else None).median_activation
    expected = [row[keep].abs().median() for row, keep in zip(hidden, valid | (not padded), strict=True)]
    assert torch.equal(found, torch.stack(expected))


def test_a_batchs_update_norms_are_those_of_its_products():
    generator = torch.Generator().manual_seed(0)
    projection = torch.nn.Linear(6 * 4, 20)
    value = torch.randn(3, 2, 11, 4, generator=generator)  # three query heads share a value
    with torch.no_grad():
        projection.weight.copy_(torch.randn(20, 24, generator=generator))
        found = update_norm(projection, value, 6)
        by_head = projection.weight.double().unflatten(1, (6, 4))
        expected = torch.einsum("ohd,bhtd->bhto", by_head, value.double().repeat_interleave(3, 1)).norm(dim=-1)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)
