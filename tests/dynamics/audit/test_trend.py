"""Weights off the path of a training: found where a late step is served early, and nowhere in sound series."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.dynamics.audit.fingerprint import PROJECTIONS
from ontogeny.dynamics.audit.trend import off_trend

DIMENSIONS = 400
GRID = np.array([0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)])


def sketch(weights: np.ndarray, seed: int) -> np.ndarray:
    matrix = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], size=(weights.shape[1], PROJECTIONS))
    return weights @ matrix / PROJECTIONS**0.5


def walk(steps: np.ndarray, seed: int) -> np.ndarray:
    """A random walk whose steps shrink, with decay, seen at `steps`."""
    rng = np.random.default_rng(seed)
    gaps = np.diff(steps, prepend=0)[:, None]
    rate = np.cos(0.49 * np.pi * steps / steps[-1])[:, None]
    return np.cumsum(rng.normal(size=(len(steps), DIMENSIONS)) * np.sqrt(gaps) * rate, axis=0)


def converging(steps: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = 8 * np.arange(len(steps))[:, None] / len(steps)
    return 3 * rng.normal(size=DIMENSIONS) * np.exp(-time) + 0.05 * rng.normal(size=(len(steps), DIMENSIONS))


def noise(steps: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(steps), DIMENSIONS))


LOG = np.array([0, *(2**power for power in range(18))])


@pytest.mark.parametrize("steps", [GRID[:-1:3], LOG, np.arange(0, 12_000, 1000)], ids=["pythia", "log", "even"])
@pytest.mark.parametrize("path", [walk, converging, noise])
def test_sound_series_have_none(path, steps) -> None:
    assert [off_trend(sketch(path(steps, seed), seed)) for seed in range(20)] == [[]] * 20


@pytest.mark.parametrize("early", [0, 1, 8, 40, 100, 130])
def test_a_late_weight_served_early_is_the_one_found(early: int) -> None:
    for seed in range(3):
        weights = walk(GRID, seed)
        weights[early] = weights[-3] + 0.3 * np.random.default_rng(seed).normal(size=DIMENSIONS)
        assert off_trend(sketch(weights, seed)) == [early]


def test_a_run_of_late_weights_is_found() -> None:
    weights = walk(GRID, 0)
    weights[50:60] = walk(GRID, 0)[143:153]
    assert off_trend(sketch(weights, 0)) == list(range(50, 60))


def test_where_the_ends_are_alike_nothing_tells_which_is_right() -> None:
    gaps = np.diff(LOG, prepend=0)[:, None]
    weights = np.cumsum(np.random.default_rng(0).normal(size=(len(LOG), DIMENSIONS)) * np.sqrt(gaps), axis=0)
    weights[0] = weights[-1] + 0.1
    assert off_trend(sketch(weights, 0)) == [0, len(LOG) - 1]


def test_the_threshold_is_a_factor_of_two() -> None:
    """On a line, with the bump at h off it: its neighbours are 2 apart, it is sqrt(1 + h^2) from both."""

    def bumped(height: float) -> np.ndarray:
        points = np.zeros((9, PROJECTIONS))
        points[:, 0] = np.arange(9)
        points[4, 1] = height
        return points

    assert off_trend(bumped(np.sqrt(15) - 0.01)) == []
    assert off_trend(bumped(np.sqrt(15) + 0.01)) == [3, 4, 5]  # one detour: nothing tells which of them is off
    assert off_trend(bumped(30.0)) == [4]
    aside = bumped(3.9)
    aside[4, 0] += 0.9
    assert off_trend(aside) == []  # 4.3 from the one, but 3.9 from the other


def test_few_checkpoints_are_not_judged_and_no_path_is_said() -> None:
    points = np.zeros((4, PROJECTIONS))
    points[1] = 1
    assert off_trend(points) == []
    there_and_back = np.zeros((12, PROJECTIONS))
    there_and_back[::2, 0] = 1 + 1e-3 * np.arange(6)
    there_and_back[1::2, 1] = 1 + 1e-3 * np.arange(6)
    assert off_trend(there_and_back) is None
