"""Fits of series whose truth is known, or whose best fit is found by other means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import differential_evolution, least_squares

from ontogeny.errors import UsageError
from ontogeny.fitting import EmergenceCurve, EmergenceFit, Regime, Verdict, descent, fit_curve, fit_curves, search

STEPS = {
    "pythia": np.array([0, *2 ** np.arange(10), *range(1000, 143001, 1000)], dtype=float),
    "pythia, thinned": np.array([0, *2 ** np.arange(10), *range(3000, 143001, 5000)], dtype=float),
    "short": np.array([0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 112, 128, 256, 512, 1000, 2000, 4000, 6000, 8000, 10000.0]),
    "even": np.arange(0, 10001, 250, dtype=float),
    "late": np.arange(20_000, 143_001, 3000, dtype=float),
}
PUBLISHED_410M = {"A": 0.19914, "lambda_": 0.12452, "gamma": 1.1244e-4, "t0": 0.62122, "K": 0.12193}


def shapes(steps: np.ndarray) -> dict[str, EmergenceCurve]:
    """Curves of every regime on a series of this length."""
    last = steps.max()
    return {
        "early peak": EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=8 / last, tau0=last / 400),
        "log increase": EmergenceCurve(A1=2.0, A2=-20.0, K=25.0, beta=0.7 / last, tau0=last / 150),
        "monotone decay": EmergenceCurve(A1=1.0, A2=60.0, K=10.0, beta=6 / last, tau0=last / 100),
        "trough": EmergenceCurve(A1=-40.0, A2=60.0, K=800.0, beta=8 / last, tau0=last / 400),
    }


CASES = [(grid, shape) for grid in STEPS for shape in shapes(STEPS[grid])]


def squares_of(fit: EmergenceFit, steps: np.ndarray, values: np.ndarray) -> float:
    assert fit.curve is not None
    return float(((values - fit.curve(steps)) ** 2).sum())


def textbook_squares(theta: np.ndarray, steps: np.ndarray, values: np.ndarray) -> float:
    """What the textbook columns leave of the values at (ln beta, ln tau0), by a plain least-squares solution."""
    beta, tau0 = np.exp(theta)
    decay = np.exp(-beta * steps)
    design = np.stack([decay * np.log(steps + tau0), decay, np.ones_like(steps)], axis=1)
    design /= np.linalg.norm(design, axis=0)
    return float(((values - design @ np.linalg.lstsq(design, values, rcond=1e-14)[0]) ** 2).sum())


@pytest.mark.parametrize(("grid", "shape"), CASES)
def test_recovers_the_curve_that_made_the_values(grid: str, shape: str) -> None:
    steps = STEPS[grid]
    true = shapes(steps)[shape]
    fit = fit_curve(steps, true(steps))
    assert fit.verdict is Verdict.OK
    assert fit.curve is not None
    for name in ("A1", "A2", "K", "beta", "tau0"):
        assert getattr(fit.curve, name) == pytest.approx(getattr(true, name), rel=1e-5), name
    assert fit.r2 == pytest.approx(1, abs=1e-12)
    assert (fit.points, fit.first_step, fit.last_step) == (steps.size, steps.min(), steps.max())
    assert fit.final_value == pytest.approx(float(true(steps.max())))
    if steps.min() == 0:
        assert fit.regime == shape


def test_recovers_the_published_parameters_of_pythia_410m() -> None:
    x = PUBLISHED_410M["gamma"] * STEPS["pythia"] + PUBLISHED_410M["t0"]
    values = PUBLISHED_410M["A"] * np.exp(-PUBLISHED_410M["lambda_"] * x) * np.log(x) + PUBLISHED_410M["K"]
    fit = fit_curve(STEPS["pythia"], values)
    assert fit.verdict is Verdict.OK
    assert fit.curve is not None
    original = fit.curve.original()
    assert original is not None
    assert original._asdict() == pytest.approx(PUBLISHED_410M, rel=1e-6)


@pytest.mark.parametrize(("grid", "shape"), CASES)
def test_noisy_fit_is_no_worse_than_a_descent_from_the_truth(grid: str, shape: str) -> None:
    steps = STEPS[grid]
    true = shapes(steps)[shape]
    rng = np.random.default_rng(CASES.index((grid, shape)))
    values = true(steps) + 0.05 * np.ptp(true(steps)) * rng.normal(size=steps.size)
    fit = fit_curve(steps, values)
    start = np.array([true.A1, true.A2, true.K, np.log(true.beta), np.log(true.tau0)])

    def residual(p: np.ndarray) -> np.ndarray:
        return np.exp(-np.exp(p[3]) * steps) * (p[0] * np.log(steps + np.exp(p[4])) + p[1]) + p[2] - values

    box = ([-np.inf] * 3 + [start[3] - 3, start[4] - 3], [np.inf] * 3 + [start[3] + 3, start[4] + 3])
    rival = least_squares(residual, start, x_scale=np.maximum(np.abs(start), 1e-3), bounds=box, max_nfev=2000)
    assert squares_of(fit, steps, values) <= 2 * rival.cost * (1 + 1e-6)
    assert fit.residual_std == pytest.approx(0.05 * np.ptp(true(steps)), rel=0.4)


@pytest.mark.parametrize("seed", range(3))
def test_noisy_fit_is_the_global_optimum(seed: int) -> None:
    """Against differential evolution and a dense grid over the textbook form of the problem."""
    steps = STEPS["short"]
    rng = np.random.default_rng(100 + seed)
    true = list(shapes(steps).values())[seed]
    values = true(steps) + 0.1 * np.ptp(true(steps)) * rng.normal(size=steps.size)
    fit = fit_curve(steps, values)
    found = squares_of(fit, steps, values)
    box = [(np.log(2e-3 / steps.max()), np.log(5 / 8)), (np.log(1e-3), np.log(50 * steps.max()))]
    places = np.stack(np.meshgrid(*(np.linspace(*side, 60) for side in box)), axis=-1).reshape(-1, 2)
    dense = min(textbook_squares(place, steps, values) for place in places)
    evolved = differential_evolution(textbook_squares, box, args=(steps, values), seed=seed, popsize=25, tol=1e-10)
    assert found <= dense * (1 + 1e-6)
    assert found <= evolved.fun * (1 + 1e-6)


def test_many_random_curves_are_fitted_to_their_noise() -> None:
    """Over the range of the published parameters, with 5 % noise: no fit is worse than the truth, and all are quick."""
    steps = STEPS["pythia, thinned"]
    rng = np.random.default_rng(7)
    draws = [
        EmergenceCurve.from_original(
            A=rng.uniform(0.1, 1),
            lambda_=rng.uniform(0.02, 0.6),
            gamma=10 ** rng.uniform(-5, -2),
            t0=10 ** rng.uniform(-2, 0.5),
            K=rng.uniform(-1, 1),
        )
        for _ in range(188)
    ]
    clean = np.stack([curve(steps) for curve in draws])
    noise = 0.05 * np.ptp(clean, axis=1, keepdims=True) * rng.normal(size=clean.shape)
    fits = fit_curves(steps, clean + noise)
    assert {fit.verdict for fit in fits} == {Verdict.OK, Verdict.NOT_IDENTIFIABLE}
    for fit, truth, error in zip(fits, clean, noise, strict=True):
        assert squares_of(fit, steps, truth + error) <= (error**2).sum() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("steps", "values", "verdict"),
    [
        ([], [], Verdict.TOO_FEW_POINTS),
        ([0], [1.0], Verdict.TOO_FEW_POINTS),
        ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5.0], Verdict.TOO_FEW_POINTS),
        ([0, 1, 2, 3, 4] * 3, list(range(15)), Verdict.TOO_FEW_POINTS),
        ([0, 1, 2, 3, 4], [1, 2, np.nan, 4, 5.0], Verdict.TOO_FEW_POINTS),
        (range(8), [0.3] * 8, Verdict.CONSTANT),
        (range(8), [0.0] * 8, Verdict.CONSTANT),
        (range(8), [5e9 + 1e-6 * i for i in range(8)], Verdict.CONSTANT),
        (range(8), [1, 2, 3, np.nan, 4, 5, 6, 7], Verdict.NOT_FINITE),
        (range(8), [1, 2, 3, -np.inf, 4, 5, 6, 7], Verdict.NOT_FINITE),
        (range(8), [1, 2, 3, 1e200, 4, 5, 6, 7], Verdict.NOT_FINITE),
    ],
)
def test_nothing_to_fit_is_a_verdict(steps: list[float], values: list[float], verdict: Verdict) -> None:
    fit = fit_curve(steps, values)
    assert fit.verdict is verdict
    assert (fit.curve, fit.r2, fit.residual_std, fit.peak_step, fit.final_value) == (None,) * 5
    assert fit.regime is (Regime.FLAT if verdict is Verdict.CONSTANT else Regime.NONE)
    assert fit.points == len(values)


def test_six_points_suffice() -> None:
    fit = fit_curve([0, 10, 100, 1000, 5000, 10000], [1, 1.2, 4, 9, 7, 6.0])
    assert fit.curve is not None
    assert fit.r2 is not None
    assert 0.9 < fit.r2 <= 1


def test_one_bad_series_does_not_spoil_the_others() -> None:
    steps = STEPS["short"]
    good = shapes(steps)["early peak"](steps)
    fits = fit_curves(steps, [good, np.full_like(good, 2.0), np.where(steps == 64, np.nan, good), 3 * good])
    assert [fit.verdict for fit in fits] == [Verdict.OK, Verdict.CONSTANT, Verdict.NOT_FINITE, Verdict.OK]
    assert fits[3].curve is not None
    assert pytest.approx(120) == fits[3].curve.A1


def exponential(steps: np.ndarray) -> np.ndarray:
    """Needs no logarithm, so that nothing fixes tau0."""
    return 5 - 3 * np.exp(-steps / 2000)


def critical(steps: np.ndarray) -> np.ndarray:
    """The limit of an infinite tau0."""
    return 1 + steps / 500 * np.exp(-steps / 1500)


def logarithm(steps: np.ndarray) -> np.ndarray:
    """The limit of a vanishing beta, at which A2 and K merge."""
    return np.log(steps + 50)


@pytest.mark.parametrize("limit", [exponential, critical, logarithm])
def test_a_limit_of_the_curve_is_fitted_but_not_identifiable(limit) -> None:
    fit = fit_curve(STEPS["short"], limit(STEPS["short"]))
    assert fit.verdict is Verdict.NOT_IDENTIFIABLE
    assert fit.r2 is not None
    assert fit.r2 > 0.9999


def test_noise_alone_is_not_identifiable() -> None:
    values = np.random.default_rng(5).normal(size=(20, STEPS["short"].size))
    verdicts = [fit.verdict for fit in fit_curves(STEPS["short"], 10 + values)]
    assert verdicts.count(Verdict.NOT_IDENTIFIABLE) >= 15
    assert fit_curve(STEPS["short"], 10 + 0.1 * values[0]).regime is Regime.FLAT


def test_parameters_beyond_double_precision_give_no_curve() -> None:
    fit = fit_curve(1e15 + np.arange(10), np.random.default_rng(0).normal(size=10))
    assert (fit.verdict, fit.curve, fit.r2) == (Verdict.NOT_IDENTIFIABLE, None, None)


def test_an_unfinished_descent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "ITERATIONS", 1)
    steps = STEPS["short"]
    assert fit_curve(steps, shapes(steps)["early peak"](steps)).verdict is Verdict.DID_NOT_CONVERGE


def test_regimes_of_peaks_at_the_ends() -> None:
    """A fall of less than a tenth of the range after the peak is no early peak."""
    steps = STEPS["short"]
    late = EmergenceCurve(A1=2.0, A2=-5.0, K=0.0, beta=2e-5, tau0=50.0)
    fit = fit_curve(steps, late(steps))
    assert fit.peak_step is not None
    assert fit.regime is Regime.LOG_INCREASE


def test_weights_are_repeats_and_zero_leaves_out() -> None:
    steps = STEPS["even"]
    rng = np.random.default_rng(2)
    values = shapes(steps)["early peak"](steps) + rng.normal(size=steps.size)
    weights = rng.integers(0, 4, steps.size)
    weighted = fit_curve(steps, values, weights)
    repeated = fit_curve(np.repeat(steps, weights), np.repeat(values, weights))
    assert weighted.curve is not None
    assert repeated.curve is not None
    np.testing.assert_allclose(weighted.curve(steps), repeated.curve(steps), rtol=1e-6)
    assert weighted.r2 == pytest.approx(repeated.r2)
    assert weighted.points == (weights > 0).sum()
    spoiled = np.where(weights == 0, np.nan, values)
    assert fit_curve(steps, spoiled, weights) == weighted


def test_the_unit_of_weights_does_not_matter() -> None:
    steps = STEPS["short"]
    rng = np.random.default_rng(4)
    values = shapes(steps)["log increase"](steps) + rng.normal(size=steps.size)
    weights = rng.uniform(0.5, 2, steps.size)
    one, other = fit_curve(steps, values, weights), fit_curve(steps, values, 1e4 * weights)
    assert one.r2 == pytest.approx(other.r2)
    assert one.residual_std == pytest.approx(other.residual_std)


def test_residual_std_allows_for_the_five_parameters() -> None:
    steps = STEPS["short"]
    values = shapes(steps)["early peak"](steps) + np.random.default_rng(6).normal(size=steps.size)
    fit = fit_curve(steps, values)
    assert fit.residual_std == pytest.approx((squares_of(fit, steps, values) / (steps.size - 5)) ** 0.5)
    assert fit.r2 == pytest.approx(1 - squares_of(fit, steps, values) / ((values - values.mean()) ** 2).sum())


def test_searching_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = STEPS["short"]
    values = np.random.default_rng(8).normal(size=(7, steps.size)) + shapes(steps)["early peak"](steps)
    whole = fit_curves(steps, values)
    monkeypatch.setattr(search, "BLOCK", 3)
    assert [fit.r2 for fit in fit_curves(steps, values)] == pytest.approx([fit.r2 for fit in whole], rel=1e-12)


def test_the_order_of_points_does_not_matter() -> None:
    steps = STEPS["short"]
    rng = np.random.default_rng(3)
    values = shapes(steps)["early peak"](steps) + rng.normal(size=steps.size)
    order = rng.permutation(steps.size)
    straight, shuffled = fit_curve(steps, values), fit_curve(steps[order], values[order])
    assert straight.curve is not None
    assert shuffled.curve is not None
    np.testing.assert_allclose(shuffled.curve(steps), straight.curve(steps), rtol=1e-6)


SIX = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("steps", "values", "weights", "says"),
    [
        (SIX, [1.0] * 5, None, "as many values"),
        (SIX, [[1.0] * 6], None, "one value for each step"),
        ([SIX], [1.0], None, "as many values"),
        (SIX, [1.0] * 6, [1.0] * 5, "as many values"),
        ([-1, 1, 2, 3, 4, 5], [1.0] * 6, None, "expected steps that are finite and 0 or more"),
        ([np.nan, 1, 2, 3, 4, 5], [1.0] * 6, None, "expected steps that are finite and 0 or more"),
        (SIX, [1.0] * 6, [-1, 1, 1, 1, 1, 1], "expected weights that are finite and 0 or more"),
        (SIX, [1.0] * 6, [np.inf, 1, 1, 1, 1, 1], "expected weights that are finite and 0 or more"),
    ],
)
def test_a_nonsensical_call_is_refused(steps, values, weights, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fit_curve(steps, values, weights)


well_behaved = settings(derandomize=True, deadline=None, max_examples=25)
factors = st.floats(-6, 6).map(lambda power: 10**power)


@well_behaved
@given(factor=factors, sign=st.sampled_from([-1, 1]), shift=st.floats(-10, 10), seed=st.integers(0, 4))
def test_values_in_other_units_give_the_same_curve(factor: float, sign: int, shift: float, seed: int) -> None:
    steps = STEPS["short"]
    true = shapes(steps)["early peak"]
    values = true(steps) + 5 * np.random.default_rng(seed).normal(size=steps.size)
    first, second = fit_curve(steps, values), fit_curve(steps, sign * factor * (values + shift))
    assert first.curve is not None
    assert second.curve is not None
    np.testing.assert_allclose(second.curve(steps) / (sign * factor) - shift, first.curve(steps), rtol=1e-4, atol=1e-3)
    assert second.r2 == pytest.approx(first.r2, abs=1e-7)
    assert second.verdict is first.verdict
    assert second.residual_std == pytest.approx(factor * (first.residual_std or 0), rel=1e-5)


@well_behaved
@given(factor=factors, seed=st.integers(0, 4))
def test_steps_in_other_units_give_the_same_curve(factor: float, seed: int) -> None:
    steps = STEPS["short"]
    true = shapes(steps)["early peak"]
    values = true(steps) + 5 * np.random.default_rng(seed).normal(size=steps.size)
    first, second = fit_curve(steps, values), fit_curve(factor * steps, values)
    assert first.curve is not None
    assert second.curve is not None
    np.testing.assert_allclose(second.curve(factor * steps), first.curve(steps), rtol=1e-4, atol=1e-3)
    assert second.curve.beta * factor == pytest.approx(first.curve.beta, rel=1e-3)
    assert second.curve.tau0 / factor == pytest.approx(first.curve.tau0, rel=1e-3)
    assert (second.verdict, second.regime) == (first.verdict, first.regime)
    if first.peak_step is not None:
        assert second.peak_step == pytest.approx(factor * first.peak_step, rel=1e-3)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    points=st.lists(
        st.tuples(st.integers(0, 10_000_000), st.floats(-1e30, 1e30) | st.just(float("nan"))), min_size=0, max_size=12
    )
)
def test_any_series_gets_a_verdict(points: list[tuple[int, float]]) -> None:
    fit = fit_curve([step for step, _ in points], [value for _, value in points])
    assert (fit.r2 is None) == (fit.curve is None)
    if fit.curve is None:
        assert fit.verdict is not Verdict.OK
    else:
        assert fit.r2 is not None
        assert -1e-3 <= fit.r2 <= 1
        assert fit.regime is not Regime.NONE
        fit.curve.original()
