"""The curve itself: both parametrisations, and where it turns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import lambertw

from ontogeny.errors import UsageError
from ontogeny.fitting import EmergenceCurve

PUBLISHED_410M = {"A": 0.19914, "lambda_": 0.12452, "gamma": 1.1244e-4, "t0": 0.62122, "K": 0.12193}

TURNING = {
    "early peak": EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=1e-3, tau0=5.0),
    "late peak": EmergenceCurve(A1=2.0, A2=-14.0, K=0.0, beta=3e-6, tau0=900.0),
    "trough": EmergenceCurve(A1=-1.5, A2=4.0, K=2.0, beta=2e-5, tau0=300.0),
    "A2 dominates, positive": EmergenceCurve(A1=1e-3, A2=2.0, K=0.0, beta=1e-4, tau0=1.0),
    "A2 dominates, negative": EmergenceCurve(A1=1.0, A2=-8.0, K=0.0, beta=1e-4, tau0=2.0),
}


def test_published_parameters_give_the_published_formula(pythia_steps: np.ndarray) -> None:
    A, lambda_, gamma, t0, K = PUBLISHED_410M.values()
    x = gamma * pythia_steps + t0
    curve = EmergenceCurve.from_original(**PUBLISHED_410M)
    np.testing.assert_allclose(curve(pythia_steps), A * np.exp(-lambda_ * x) * np.log(x) + K, rtol=1e-12)
    assert curve.tau0 == pytest.approx(5524.9, rel=1e-4)
    assert curve.beta == pytest.approx(1.40010e-5, rel=1e-4)


@pytest.mark.parametrize("curve", TURNING.values(), ids=TURNING)
def test_original_is_the_same_curve(curve: EmergenceCurve) -> None:
    original = curve.original()
    if original is None:
        assert curve is TURNING["A2 dominates, positive"]  # gamma = exp(2000)
        return
    steps = np.array([0, 1, 10, 1e3, 1e5])
    np.testing.assert_allclose(EmergenceCurve.from_original(**original._asdict())(steps), curve(steps), rtol=1e-9)
    assert np.sign(original.A) == np.sign(curve.A1)


def test_original_returns_the_published_parameters() -> None:
    original = EmergenceCurve.from_original(**PUBLISHED_410M).original()
    assert original is not None
    assert original._asdict() == pytest.approx(PUBLISHED_410M, rel=1e-12)


@pytest.mark.parametrize(
    ("A1", "A2", "beta", "tau0"),
    [
        (0.0, 1.0, 1e-3, 1.0),  # nothing fixes gamma
        (1e-3, 1.0, 1e-3, 1.0),  # gamma = exp(1000)
        (1e-3, -1.0, 1e-3, 1.0),  # gamma = exp(-1000)
        (1.0, 1.0, 1.0, 1e3),  # A = exp(1000)
        (5e-324, 1.0, 1e-3, 1.0),
    ],
)
def test_original_is_none_where_it_overflows(A1: float, A2: float, beta: float, tau0: float) -> None:
    assert EmergenceCurve(A1=A1, A2=A2, K=0.0, beta=beta, tau0=tau0).original() is None


@pytest.mark.parametrize("curve", TURNING.values(), ids=TURNING)
def test_extremum_is_where_the_curve_turns(curve: EmergenceCurve) -> None:
    sign = np.sign(curve.A1)
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 1e8, 4000)])
    best = int((sign * curve(grid)).argmax())
    step = curve.extremum_step()
    assert step is not None
    if best == 0:
        assert step < grid[1]
        return
    fine = minimize_scalar(
        lambda t: -sign * float(curve(t)), bounds=grid[[best - 1, best + 1]], method="bounded", options={"xatol": 1e-9}
    )
    assert step == pytest.approx(fine.x, rel=1e-5)


@pytest.mark.parametrize("name", ["early peak", "late peak"])
def test_peak_agrees_with_the_published_formula(name: str) -> None:
    curve = TURNING[name]
    original = curve.original()
    assert original is not None
    published = (np.exp(lambertw(1 / original.lambda_).real) - original.t0) / original.gamma
    assert curve.peak_step(1e9) == pytest.approx(published, rel=1e-9)


def test_no_peak_before_the_start_after_the_end_or_where_the_curve_has_a_trough() -> None:
    early = TURNING["early peak"]
    step = early.peak_step(1e9)
    assert step is not None
    assert early.peak_step(step * 0.99) is None
    assert TURNING["trough"].peak_step(1e9) is None
    falling = EmergenceCurve(A1=1.0, A2=50.0, K=0.0, beta=1.0, tau0=10.0)
    assert falling.extremum_step() < 0
    assert falling.peak_step(1e9) is None
    assert EmergenceCurve(A1=0.0, A2=1.0, K=0.0, beta=1.0, tau0=1.0).peak_step(1e9) is None


@pytest.mark.parametrize("A2", [1e300, -1e300])
def test_extremum_survives_overflow(A2: float) -> None:
    step = EmergenceCurve(A1=1e-10, A2=A2, K=0.0, beta=1e-3, tau0=1.0).extremum_step()
    assert step is not None
    assert not np.isnan(step)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"tau0": 0.0}, {"tau0": -1.0}, {"K": np.nan}, {"A1": np.inf}])
def test_impossible_parameters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="beta > 0 and tau0 > 0"):
        EmergenceCurve(**{"A1": 1.0, "A2": 1.0, "K": 1.0, "beta": 1.0, "tau0": 1.0} | wrong)


@pytest.mark.parametrize("name", ["lambda_", "gamma", "t0"])
def test_impossible_original_parameters_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="lambda, gamma and t0 > 0"):
        EmergenceCurve.from_original(**PUBLISHED_410M | {name: 0.0})


def test_negative_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="0 or more, got -1"):
        TURNING["early peak"]([0, -1])


def test_any_shape_of_steps() -> None:
    curve = TURNING["early peak"]
    assert curve(3).shape == ()
    assert curve([[1, 2, 3], [4, 5, 6]]).shape == (2, 3)
    assert curve(1e12) == curve.K
