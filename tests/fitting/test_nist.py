"""The solver behind every fit, on NIST's certified problems with exponentials."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.fitting.descent import Descent, descend
from tests.fitting.nist import PROBLEMS, Problem

# From NIST's farther start MGH17 has another local minimum on the way, and MGH10's valley takes thousands of steps.
CASES = [(name, start) for name in PROBLEMS for start in (1, 2) if (name, start) not in {("MGH17", 1), ("MGH10", 1)}]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_data_are_nists(name: str) -> None:
    """The certified parameters leave the certified sum of squares, to all the digits that the parameters carry."""
    problem = PROBLEMS[name]
    squares = ((problem.y - problem.model(problem.x, *problem.certified)) ** 2).sum()
    assert squares == pytest.approx(problem.squares, rel=1e-7)


def solve(problem: Problem, start: tuple[float, ...]) -> Descent:
    """Parameters are measured in units of their start; derivatives are complex steps, exact to rounding."""
    unit = np.array(start, dtype=float)

    def linearise(theta: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual = np.stack([problem.y - problem.model(problem.x, *(row * unit)) for row in theta])
        jacobian = np.empty((*residual.shape, unit.size))
        for i, row in enumerate(theta):
            for k in range(unit.size):
                shifted = row.astype(complex)
                shifted[k] += 1e-20j
                jacobian[i, :, k] = -problem.model(problem.x, *(shifted * unit)).imag / 1e-20
        return residual, jacobian

    return descend(linearise, np.ones((1, unit.size)), np.full(unit.size, -np.inf), np.full(unit.size, np.inf))


@pytest.mark.parametrize(("name", "which"), CASES)
def test_certified_to_six_digits(name: str, which: int) -> None:
    problem = PROBLEMS[name]
    start = problem.starts[which - 1]
    found = solve(problem, start)
    np.testing.assert_allclose(found.theta[0] * start, problem.certified, rtol=5e-7)
    assert found.cost[0] == pytest.approx(problem.squares, rel=1e-6)
    assert found.converged.all()
