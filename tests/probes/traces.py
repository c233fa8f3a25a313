"""Comparing traces."""

from __future__ import annotations

import torch


def assert_equal_traces(one, other):
    assert one.attention == other.attention and one.length == other.length
    for parts, others in ((one.layers, other.layers), (one.depths, other.depths)):
        for part, twin in zip(parts, others, strict=True):
            assert_equal_parts(part, twin)


def assert_equal_parts(part, twin):
    for name, value in vars(part).items():
        other = getattr(twin, name)
        assert (value is None) == (other is None), name
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
        elif value is not None:
            assert_equal_parts(value, other)
