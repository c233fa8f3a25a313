"""Comparing traces."""

from __future__ import annotations

import torch


def assert_equal_traces(one, other):
    assert one.attention == other.attention and one.length == other.length
    for parts, others in ((one.layers, other.layers), (one.depths, other.depths)):
        for part, twin in zip(parts, others, strict=True):
            for name, value in vars(part).items():
                other_value = getattr(twin, name)
                assert (value is None) == (other_value is None), name
                if value is not None:
                    torch.testing.assert_close(value, other_value, rtol=0, atol=0, equal_nan=True)
