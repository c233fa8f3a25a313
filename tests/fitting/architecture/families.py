"""Synthetic families of models, whose curves are a known function of the architecture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ontogeny.archspec import ArchSpec
from ontogeny.fitting import EmergenceCurve
from ontogeny.fitting.architecture import ModelCurves

STEPS = np.array([0, 4, 32, 256, 1000, 4000, 12000, 24000, 50000, 100000, 143000], dtype=float)
Curve = Callable[[ArchSpec, float], EmergenceCurve]


def arch(layers: int, width: int, heads: int, **facts: object) -> ArchSpec:
    stated = {"positional": "rotary", "norm": "layer", "parallel_residual": True, "dtype": "float16", "init": "usual"}
    return ArchSpec(layers, width, heads, heads, width // heads, 4 * width, 50304, **(stated | facts))


def archs(count: int, seed: int = 0) -> list[ArchSpec]:
    draw = np.random.default_rng(seed)
    return [arch(int(draw.integers(4, 9)), 64 * int(heads), int(heads)) for heads in draw.integers(2, 40, size=count)]


def curve_of(height: float, K: float, beta: float = 1 / 30000, tau0: float = 500.0) -> EmergenceCurve:
    """A rise towards K, and above it a hump of `height`."""
    A1 = height / 2
    return EmergenceCurve(A1=A1, A2=-A1 * np.log(tau0) - K, K=K, beta=beta, tau0=tau0)


def depth_only(_: ArchSpec, u: float) -> EmergenceCurve:
    return curve_of(height=30 * u, K=100 - 40 * u)


def planted(arch: ArchSpec, u: float) -> EmergenceCurve:
    """Where the curve goes is the width's, and the hump that of d / L and depth."""
    return curve_of(height=20 * u + 0.3 * arch.width / arch.layers, K=60 * np.log(arch.width) - 200 - 40 * u)


def family(
    archs: list[ArchSpec], curve: Curve, noise: float = 0.02, offset: float = 0.0, seed: int = 0
) -> list[ModelCurves]:
    """Measured with `noise` in parts of each curve's range; `offset` multiplies a model's curves by exp(normal)."""
    draw = np.random.default_rng(seed)
    models = []
    for place, one in enumerate(archs):
        u = np.arange(one.layers) / max(one.layers - 1, 1)
        values = np.exp(offset * draw.normal()) * np.stack([curve(one, float(x))(STEPS) for x in u])
        values += noise * np.ptp(values, axis=1, keepdims=True) * draw.normal(size=values.shape)
        models.append(ModelCurves(f"model {place}", one, np.arange(one.layers), STEPS, values))
    return models
