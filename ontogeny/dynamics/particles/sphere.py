"""The unit sphere: normalised states, tangents, and where particles start. States are (..., n, d), float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CENTRE_DRAWS = 64


def normalised(x: Tensor) -> Tensor:
    """x on the sphere: every state divided by its norm."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def tangent(x: Tensor, y: Tensor) -> Tensor:
    """P_x y = y - <x, y> x, for x on the sphere."""
    along = (x * y) @ x.new_ones(x.shape[-1], 1)  # in a low dimension ten times as fast as a sum
    return torch.addcmul(y, along, x, value=-1)


def uniform(rng: np.random.Generator, particles: int, dimension: int) -> np.ndarray:
    """Independent uniform states, (n, d)."""
    x = rng.standard_normal((particles, dimension))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def centres(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Centres of caps, (count, d): of 64 uniform draws the one whose largest inner product is least."""
    return min((uniform(rng, count, dimension) for _ in range(CENTRE_DRAWS)), key=_nearest)


def smallest_angle(x: np.ndarray) -> float:
    """The smallest angle between two of the states (n, d); pi for a single one."""
    return float(np.arccos(np.clip(_nearest(x), -1, 1)))


def caps(rng: np.random.Generator, particles: int, middles: np.ndarray, radius: float) -> np.ndarray:
    """States in caps around `middles` (K, d), uniform in each to first order in its `radius` (radians), (n, d).

    Neighbouring particles share a cap, and the caps' sizes differ by one at most.
    """
    count, dimension = middles.shape
    centre = middles[np.arange(particles) * count // particles]
    sideways = rng.standard_normal((particles, dimension))
    sideways -= (sideways * centre).sum(-1, keepdims=True) * centre
    sideways /= np.linalg.norm(sideways, axis=-1, keepdims=True)
    angle = radius * rng.uniform(size=(particles, 1)) ** (1 / (dimension - 1))
    return np.cos(angle) * centre + np.sin(angle) * sideways


def _nearest(centres: np.ndarray) -> float:
    """The largest inner product of two centres; -1 for a single one."""
    pairs = (centres @ centres.T)[np.triu_indices(len(centres), 1)]
    return float(pairs.max(initial=-1.0))
