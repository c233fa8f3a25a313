"""Random numbers: each sample has its own, for its start and for its noise, the same whatever else is simulated."""

from __future__ import annotations

import numpy as np

START, NOISE = 0, 1


def generator(seed: int, use: int, sample: int) -> np.random.Generator:
    """The random numbers of a sample for one use, START or NOISE."""
    return np.random.default_rng((seed, use, sample))
