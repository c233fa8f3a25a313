"""The rival curves: each against scipy's fit of the same formula, and how they are scored."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.signal import lti, step

from ontogeny.fitting import EmergenceCurve, fit_curve
from ontogeny.fitting.rivals import OURS, RIVALS, Score, broken_line, compare, second_order

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1000, 2000, 3000, 4000, 5000, 6000, 8000, 10000.0])
FIRST, SECOND, POWER, LOGISTIC, LINES = (rival.name for rival in RIVALS)


def first_order(t: np.ndarray, a: float, b: float, log_time: float) -> np.ndarray:
    return a + b * np.exp(-t / np.exp(log_time))


def damped(t: np.ndarray, a: float, b: float, log_omega: float, log_zeta: float) -> np.ndarray:
    omega, zeta = np.exp(log_omega), np.exp(log_zeta)
    turn = omega * np.sqrt(1 - zeta**2)
    return a + b * np.exp(-zeta * omega * t) * (np.cos(turn * t) + zeta * omega / turn * np.sin(turn * t))


def power(t: np.ndarray, a: float, b: float, log_time: float, exponent: float) -> np.ndarray:
    return a + b * (1 + t / np.exp(log_time)) ** exponent


def logistic(t: np.ndarray, a: float, b: float, middle: float, log_width: float) -> np.ndarray:
    return a + b / (1 + np.exp(-(np.log1p(t) - middle) / np.exp(log_width)))


def lines(t: np.ndarray, a: float, b: float, c: float, knot: float) -> np.ndarray:
    return a + b * np.log1p(t) + c * np.maximum(np.log1p(t) - knot, 0)


FAMILIES: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
    FIRST: (first_order, (20.0, -15.0, math.log(800))),
    SECOND: (damped, (20.0, -15.0, math.log(2e-3), math.log(0.4))),
    POWER: (power, (30.0, -25.0, math.log(50), -0.7)),
    LOGISTIC: (logistic, (2.0, 30.0, 6.0, math.log(0.6))),
    LINES: (lines, (1.0, 0.5, 6.0, 5.3)),
}


def made_by(family: str, seed: int, noise: float = 0.5) -> np.ndarray:
    function, parameters = FAMILIES[family]
    return function(STEPS, *parameters) + noise * np.random.default_rng(seed).normal(size=STEPS.size)


def score(scores: list[Score], name: str) -> Score:
    return next(one for one in scores if one.name == name)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_fitted_as_by_scipy_from_the_truth(family: str, seed: int) -> None:
    values = made_by(family, seed)
    function, parameters = FAMILIES[family]
    found, _ = curve_fit(function, STEPS, values, p0=parameters, maxfev=20_000, xtol=1e-12, ftol=1e-12)
    squares = float(((values - function(STEPS, *found)) ** 2).sum())
    r2 = 1 - squares / float(((values - values.mean()) ** 2).sum())
    own = score(compare(STEPS, values), family)
    assert own.r2 >= r2 - 1e-7
    assert own.r2 == pytest.approx(r2, abs=2e-3)
    assert own.parameters == len(parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_wins_on_what_it_made(family: str) -> None:
    """By AICc; an over-damped second order contains the first, so that the latter wins on its own by its simplicity."""
    wins = sum(compare(STEPS, made_by(family, seed, 0.1))[0].name == family for seed in range(3))
    assert wins >= 2


def test_ours_wins_on_what_it_made() -> None:
    true = EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=8e-4, tau0=25.0)
    values = true(STEPS) + np.random.default_rng(0).normal(size=STEPS.size)
    best = compare(STEPS, values)[0]
    assert best.name == OURS
    assert best.r2 == pytest.approx(fit_curve(STEPS, values).r2)


@pytest.mark.parametrize("zeta", [0.05, 0.5, 0.999, 1.0, 1.001, 3.0, 20.0])
def test_second_order_is_the_step_response_of_the_system(zeta: float) -> None:
    omega = 0.7
    t = np.linspace(0, 30, 200)
    _, expected = step(lti([omega**2], [1, 2 * zeta * omega, omega**2]), T=t)
    columns = second_order(t, np.array([[math.log(omega), math.log(zeta)]]))[0]
    np.testing.assert_allclose(columns[:, 0], 1)
    np.testing.assert_allclose(1 - columns[:, 1], expected, atol=1e-5)


def test_second_order_is_smooth_through_critical_damping() -> None:
    t = np.linspace(0, 30, 50)
    zetas = 1 + np.linspace(-1e-3, 1e-3, 41)
    shapes = np.stack([np.full(41, math.log(0.7)), np.log(zetas)], axis=1)
    responses = second_order(t, shapes)[..., 1]
    assert np.abs(np.diff(responses, n=2, axis=0)).max() < 1e-7


def test_a_family_of_one_shape_is_searched_from_several_places() -> None:
    """Here the lowest place of the grid does not lead to the best time constant."""
    steps = np.r_[0, np.geomspace(1, 1e5, 19)]
    values = np.random.default_rng(12).normal(size=20)
    best = 0.0
    for time in np.geomspace(0.1, 1e7, 20_000):
        decay = np.exp(-steps / time)
        best = max(best, np.corrcoef(decay, values)[0, 1] ** 2)
    assert score(compare(steps, values), "first-order step response").r2 > best - 1e-5


def test_a_broken_line_bends_at_its_knot() -> None:
    columns = broken_line(np.expm1([0.0, 1.0, 2.0, 4.0]), np.array([[2.0, 0.0]]))[0]
    np.testing.assert_allclose(columns, [[1, 0, 0], [1, 1, 0], [1, 2, 0], [1, 4, 2]], atol=1e-12)


def test_aicc_by_hand() -> None:
    values = made_by(LOGISTIC, 0)
    n, total = STEPS.size, float(((values - values.mean()) ** 2).sum())
    for own in compare(STEPS, values):
        k = own.parameters + 1  # the noise's variance
        squares = (1 - own.r2) * total
        expected = n * math.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        assert own.aicc == pytest.approx(expected)


def test_scores_are_ordered_by_aicc() -> None:
    scores = compare(STEPS, made_by(SECOND, 0))
    assert {own.name for own in scores} == {OURS, *FAMILIES}
    assert [own.aicc for own in scores] == sorted(own.aicc for own in scores)


EARLY = 14  # of 20


def late_squares(values: np.ndarray) -> dict[str, float]:
    return {own.name: (own.forecast * np.ptp(values)) ** 2 for own in compare(STEPS, values)}


def test_a_forecast_sees_only_the_early_checkpoints() -> None:
    """Late values moved by c up and down, with the forecast at rest, change the mean square error by c^2 on average."""
    late = np.where(np.arange(STEPS.size) < EARLY, 0.0, 100.0)
    values = made_by(FIRST, 0)
    middle, above, below = late_squares(values), late_squares(values + late), late_squares(values - late)
    for name, own in middle.items():
        assert (above[name] + below[name]) / 2 - own == pytest.approx(100.0**2, rel=1e-6), name


def test_forecasts_are_those_of_fits_of_the_early_checkpoints() -> None:
    values = made_by(FIRST, 0)
    t, y = STEPS[:EARLY], values[:EARLY]
    found, _ = curve_fit(first_order, t, y, p0=FAMILIES[FIRST][1])
    ours = fit_curve(t, y).curve
    assert ours is not None
    for name, forecast in ((FIRST, first_order(STEPS, *found)), (OURS, ours(STEPS))):
        error = np.sqrt(((values - forecast)[EARLY:] ** 2).mean()) / np.ptp(values)
        assert score(compare(STEPS, values), name).forecast == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("steps", [STEPS, STEPS[::-1]])
def test_the_order_of_points_does_not_matter(steps: np.ndarray) -> None:
    values = np.interp(steps, STEPS, made_by(POWER, 1))
    assert compare(steps, values) == compare(STEPS, np.interp(STEPS, STEPS, made_by(POWER, 1)))


def test_too_few_points_are_not_scored() -> None:
    scores = {own.name: own for own in compare(STEPS[:5], made_by(FIRST, 0)[:5])}
    assert math.isnan(scores[OURS].r2)
    assert math.isnan(scores[OURS].aicc)
    assert math.isfinite(scores[FIRST].r2)
    assert math.isnan(scores[FIRST].aicc)  # 5 points, 4 parameters with the noise
    assert [name for name, own in scores.items() if math.isfinite(own.forecast)] == [FIRST]  # 4 points, 3 parameters


def test_a_constant_is_not_scored() -> None:
    assert all(math.isnan(own.r2) for own in compare(STEPS, np.full_like(STEPS, 3.0)))


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    points=st.lists(st.tuples(st.integers(0, 5_000_000), st.floats(-1e3, 1e3)), min_size=1, max_size=12),
    power=st.integers(-30, 30),
)
def test_any_series_is_scored(points: list[tuple[int, float]], power: int) -> None:
    steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    for own in compare(steps, values * 10.0**power):
        assert math.isnan(own.r2) or own.r2 <= 1
        assert not math.isinf(own.aicc)
        assert math.isnan(own.forecast) or own.forecast >= 0
