"""Many descents at once, against scipy's of one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from ontogeny.fitting import descent

LOWER, UPPER = np.array([-3.0, -3.0]), np.array([3.0, 3.0])


def rosenbrock(theta: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = theta.T
    residual = np.stack([1 - x, 10 * (y - x**2)], axis=-1)
    jacobian = np.zeros((len(theta), 2, 2))
    jacobian[:, 0, 0] = -1
    jacobian[:, 1, 0], jacobian[:, 1, 1] = -20 * x, 10
    return residual, jacobian


class Exponentials:
    """Noisy exp(-a t) cos(b t), a problem a row, with residuals that do not vanish at the minimum."""

    t = np.linspace(0, 3, 40)

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(3)
        self.true = rng.uniform(0.3, 2, (count, 2))
        self.data = self.model(self.true) + 0.2 * rng.normal(size=(count, self.t.size))

    def model(self, theta: np.ndarray) -> np.ndarray:
        return np.exp(-theta[:, :1] * self.t) * np.cos(theta[:, 1:] * self.t)

    def linearise(self, theta: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_a = self.t * self.model(theta)
        by_b = self.t * np.exp(-theta[:, :1] * self.t) * np.sin(theta[:, 1:] * self.t)
        return self.data[which] - self.model(theta), np.stack([by_a, by_b], axis=-1)


def test_finds_the_bottom_of_a_curved_valley() -> None:
    start = np.random.default_rng(0).uniform(-2, 2, (50, 2))
    found = descent.descend(rosenbrock, start, LOWER, UPPER)
    assert found.converged.all()
    np.testing.assert_allclose(found.theta, 1, atol=1e-6)
    np.testing.assert_allclose(found.cost, 0, atol=1e-14)


def test_agrees_with_scipy_where_residuals_remain() -> None:
    problems = Exponentials(30)
    start = np.tile([1.0, 1.0], (30, 1))
    found = descent.descend(problems.linearise, start, LOWER, UPPER)
    assert found.converged.all()
    for i in range(30):
        scipy = least_squares(
            lambda theta, i=i: problems.linearise(theta[None], np.array([i]))[0][0],
            start[i],
            bounds=(LOWER, UPPER),
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        )
        assert found.cost[i] <= 2 * scipy.cost * (1 + 1e-9)
        np.testing.assert_allclose(np.abs(found.theta[i]), np.abs(scipy.x), atol=1e-4)  # cos is even
        np.testing.assert_allclose(found.jacobian[i], problems.linearise(found.theta[i : i + 1], np.array([i]))[1][0])


def test_stops_at_a_bound_that_the_minimum_lies_behind() -> None:
    start = np.array([[-1.0, 2.0], [0.2, 0.3]])
    found = descent.descend(rosenbrock, start, LOWER, np.array([0.5, 3.0]))
    assert found.converged.all()
    np.testing.assert_allclose(found.theta, [[0.5, 0.25]] * 2, atol=1e-6)


def test_an_indifferent_parameter_does_no_harm() -> None:
    def first_only(theta: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual, jacobian = np.stack([theta[:, 0] - 2, theta[:, 0] - 1], axis=-1), np.zeros((len(theta), 2, 2))
        jacobian[..., 0] = 1
        return residual, jacobian

    found = descent.descend(first_only, np.array([[0.0, 0.7]]), LOWER, UPPER)
    assert found.converged.all()
    np.testing.assert_allclose(found.theta, [[1.5, 0.7]])


def test_says_so_when_it_runs_out_of_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "ITERATIONS", 3)
    found = descent.descend(rosenbrock, np.array([[-1.5, 2.0], [1.0, 1.0]]), LOWER, UPPER)
    assert found.converged.tolist() == [False, True]
