"""Order statistics are torch's own, to the bit, and keep no more memory than their result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ontogeny.probes.capture import order
from ontogeny.probes.capture.order import descending, largest_and_median
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


@pytest.fixture(params=[True, False], ids=["on a CPU", "elsewhere"])
def on_cpu(request, monkeypatch):
    """Both ways of order: that which numpy goes on a CPU, and the one that a GPU goes."""
    monkeypatch.setattr(order, "on_cpu", lambda _: request.param)


def best_by_python(row, ranks):
    places = sorted(range(len(row)), key=lambda place: (-row[place], place))[:ranks]
    return [row[place] for place in places], places


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "tied", "zero", "denormal", "massive"])
@pytest.mark.parametrize("shape", [(3, 3), (1, 4), (2, 4097), (8, 12288)])
def test_numbers_are_torchs(shape, kind, dtype, on_cpu):
    values = magnitudes(kind, shape, dtype)
    median, row = values.median(dim=1).values, values[0].tolist()
    assert torch.equal(descending(values), values.sort(dim=-1, descending=True).values)
    top, places, found = largest_and_median(values, 3)
    assert torch.equal(found, median) and found.dtype == top.dtype == dtype
    assert (top[0].tolist(), places[0].tolist()) == best_by_python(row, 3)
    for kept in (top, places, found):
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.itemsize


finite = st.floats(0, width=32, allow_infinity=False)
some_rows = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=40), elements=finite
)


@pytest.mark.parametrize("way", [True, False], ids=["on a CPU", "elsewhere"])
@settings(deadline=None, max_examples=50)
@given(some_rows, st.data())
def test_numbers_of_any_magnitudes_are_torchs(way, values, data):
    counted = torch.tensor([data.draw(st.integers(3, len(row))) for row in values])
    rows = [row[:count] for row, count in zip(torch.from_numpy(values), counted, strict=True)]
    expected = [best_by_python(row.tolist(), 3) for row in rows]
    medians = torch.stack([row.median() for row in rows])
    there = torch.arange(values.shape[1]) < counted[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "on_cpu", lambda _: way)
        top, places, found = largest_and_median(torch.from_numpy(values).masked_fill(~there, -1), 3, counted)
    assert torch.equal(found, medians)
    assert list(zip(top.tolist(), places.tolist(), strict=True)) == expected


@pytest.mark.parametrize("padded", [False, True])
def test_the_residual_streams_median_is_torchs(padded, on_cpu):
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
