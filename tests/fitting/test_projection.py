"""The linear part of the fit, against its textbook form."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.fitting.projection import Projection

STEPS = {
    "from 0": np.array([0, 1, 2, 4, 8, 16, 64, 256, 1000, 4000, 10000], dtype=float),
    "late": np.linspace(100_000, 143_000, 12),
    "repeated": np.repeat([0.0, 10, 20, 30, 40, 50], 2),
}


def problem_on(steps: np.ndarray, seed: int = 0) -> tuple[Projection, np.ndarray, np.ndarray]:
    """A problem with uneven weights, a target for it, and shapes from all over its region."""
    rng = np.random.default_rng(seed)
    problem = Projection.of(steps, rng.uniform(0.5, 2, steps.size))
    target = rng.normal(size=steps.size)
    thetas = problem.lower + (problem.upper - problem.lower) * rng.uniform(0.2, 0.8, (20, 2))
    return problem, target / np.linalg.norm(target), thetas


def textbook_design(problem: Projection, steps: np.ndarray, theta: np.ndarray) -> np.ndarray:
    beta, tau0 = np.exp(theta[0]) / problem.span, np.exp(theta[1]) * problem.span
    decay = np.exp(-beta * (steps - steps.min()))
    return np.stack([decay * np.log(steps + tau0), decay, np.ones_like(steps)], axis=1) * problem.root_weights[:, None]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_residual_is_that_of_the_textbook_columns(steps: np.ndarray) -> None:
    problem, target, thetas = problem_on(steps)
    emphasis = np.random.default_rng(1).uniform(0.5, 2, (len(thetas), steps.size))
    residuals, _ = problem.linearise(thetas, np.tile(target, (len(thetas), 1)), emphasis)
    for theta, residual, own in zip(thetas, residuals, emphasis, strict=True):
        design = textbook_design(problem, steps, theta) * own[:, None]
        expected = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
        np.testing.assert_allclose(residual, expected, atol=1e-6)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_jacobian_is_the_derivative(steps: np.ndarray) -> None:
    problem, target, thetas = problem_on(steps)
    targets = np.tile(target, (len(thetas), 1))
    emphasis = np.random.default_rng(1).uniform(0.5, 2, targets.shape)
    _, jacobian = problem.linearise(thetas, targets, emphasis)
    width = 1e-5
    for axis in (0, 1):
        shift = width * np.eye(2)[axis]
        above, below = (problem.linearise(thetas + sign * shift, targets, emphasis)[0] for sign in (1, -1))
        np.testing.assert_allclose(jacobian[..., axis], (above - below) / (2 * width), atol=1e-7)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_curve_leaves_the_residual(steps: np.ndarray) -> None:
    problem, target, thetas = problem_on(steps)
    targets = np.tile(target, (len(thetas), 1))
    residuals, _ = problem.linearise(thetas, targets, np.ones_like(targets))
    linear = problem.linear(thetas, targets, np.ones_like(targets))
    values = 7.0 * target / problem.root_weights - 3.0
    for theta, own, residual in zip(thetas, linear, residuals, strict=True):
        curve = problem.curve(theta, own, 7.0, -3.0)
        np.testing.assert_allclose((values - curve(steps)) * problem.root_weights, 7.0 * residual, atol=1e-7)


def test_columns_stay_apart_at_the_edges_where_the_textbook_ones_merge() -> None:
    steps = STEPS["from 0"]
    problem = Projection.of(steps, np.ones_like(steps))
    corner = np.array([problem.lower[0], problem.upper[1]])

    def condition(design: np.ndarray) -> float:
        return float(np.linalg.cond(design / np.linalg.norm(design, axis=0)))

    assert condition(problem.design(corner)) < 1e4
    assert condition(textbook_design(problem, steps, corner)) > 1e6


def test_grid_covers_the_region() -> None:
    problem = Projection.of(STEPS["from 0"], np.ones(11))
    grid = problem.grid()
    np.testing.assert_allclose(grid[0, 0], problem.lower)
    np.testing.assert_allclose(grid[-1, -1], problem.upper)
    assert np.diff(grid[:, 0, 0]).max() <= 0.3
    assert np.diff(grid[0, :, 1]).max() <= 0.3
