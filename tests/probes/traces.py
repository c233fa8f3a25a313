"""Comparing traces."""

from __future__ import annotations

import torch


def assert_equal_traces(one, other):
    assert one.attention == other.attention and one.length == other.length
    for parts, others in ((one.layers, other.layers), (one.depths, other.depths)):
        for part, twin in zip(parts, others, strict=True):
            for name, value in vars(part).items():
                assert value is getattr(twin, name) is None or torch.equal(value, getattr(twin, name)), name
