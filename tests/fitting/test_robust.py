"""The Huber loss: what it does with outliers, and that its minimum is the one that scipy finds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from ontogeny.errors import UsageError
from ontogeny.fitting import EmergenceCurve, fit_curve, fit_curves

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 112, 128, 256, 512, 1000, 2000, 4000, 6000, 8000, 10000.0])
TRUE = EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=8e-4, tau0=25.0)
OUTLIER = 15


def noisy(seed: int) -> np.ndarray:
    return TRUE(STEPS) + 2.0 * np.random.default_rng(seed).normal(size=STEPS.size)


def distance(values: np.ndarray, loss: str) -> float:
    curve = fit_curve(STEPS, values, loss=loss).curve
    assert curve is not None
    return float(np.abs(curve(STEPS) - TRUE(STEPS)).max())


@pytest.mark.parametrize("seed", range(3))
def test_an_outlier_moves_the_robust_fit_little(seed: int) -> None:
    values = noisy(seed)
    spoiled = values.copy()
    spoiled[OUTLIER] += 150
    assert distance(spoiled, "squares") > 40
    assert distance(spoiled, "huber") < 10


def test_a_farther_outlier_moves_it_no_farther() -> None:
    """The loss grows linearly: an outlier pulls with the same force from any distance."""
    near, far = noisy(1), noisy(1)
    near[OUTLIER] += 200
    far[OUTLIER] += 20_000
    one, other = (fit_curve(STEPS, values, loss="huber").curve for values in (near, far))
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(other(STEPS), one(STEPS), atol=0.5)


def test_without_large_residuals_it_is_the_fit_by_squares() -> None:
    """Residuals that alternate in sign, all of one size, are within 1.345 * 1.4826 of their median."""
    values = TRUE(STEPS) + np.where(np.arange(STEPS.size) % 2, 1.0, -1.0)
    squares, huber = (fit_curve(STEPS, values, loss=loss) for loss in ("squares", "huber"))
    assert huber == squares


@pytest.mark.parametrize("seed", range(4))
def test_its_minimum_is_scipys_of_the_same_scale(seed: int) -> None:
    values = noisy(seed)
    values[[5, OUTLIER]] += [25.0, -60.0]
    fit = fit_curve(STEPS, values, loss="huber")
    assert fit.curve is not None
    bound = 1.345 * 1.4826 * np.median(np.abs(values - fit.curve(STEPS)))
    start = np.array([TRUE.A1, TRUE.A2, TRUE.K, np.log(TRUE.beta), np.log(TRUE.tau0)])

    def residual(p: np.ndarray) -> np.ndarray:
        return np.exp(-np.exp(p[3]) * STEPS) * (p[0] * np.log(STEPS + np.exp(p[4])) + p[1]) + p[2] - values

    def huber(r: np.ndarray) -> float:
        small = np.abs(r) <= bound
        return float(np.where(small, r**2, 2 * bound * np.abs(r) - bound**2).sum())

    tight = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12, "max_nfev": 5000}
    other = least_squares(residual, start, loss="huber", f_scale=bound, x_scale=np.abs(start), **tight)
    fitted = values + residual(other.x)
    assert huber(values - fit.curve(STEPS)) == pytest.approx(huber(values - fitted), rel=1e-4)
    np.testing.assert_allclose(fit.curve(STEPS), fitted, atol=0.1)


def test_the_units_of_values_and_weights_do_not_matter() -> None:
    values = noisy(2)
    values[OUTLIER] += 100
    weights = np.random.default_rng(0).uniform(0.5, 2, STEPS.size)
    first = fit_curve(STEPS, values, weights, loss="huber")
    second = fit_curve(STEPS, 1e6 * values, 1e-3 * weights, loss="huber")
    assert first.curve is not None
    assert second.curve is not None
    np.testing.assert_allclose(second.curve(STEPS) / 1e6, first.curve(STEPS), rtol=1e-4, atol=1e-2)


def test_each_series_has_its_own_outliers() -> None:
    values = np.stack([noisy(seed) for seed in range(3)])
    values[1, 4] += 100
    together = fit_curves(STEPS, values, loss="huber")
    for row, fit in zip(values, together, strict=True):
        alone = fit_curve(STEPS, row, loss="huber").curve
        assert alone is not None
        assert fit.curve is not None
        np.testing.assert_allclose(fit.curve(STEPS), alone(STEPS), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e28, 1e-28])
def test_exact_values_keep_their_curve(scale: float) -> None:
    fit = fit_curve(STEPS, scale * TRUE(STEPS), loss="huber")
    assert fit.curve is not None
    np.testing.assert_allclose(fit.curve(STEPS), scale * TRUE(STEPS), rtol=1e-6)


def test_a_curve_through_most_points_exactly_is_no_obstacle() -> None:
    values = np.where(np.arange(30) == 7, 1e28, 0.0)
    for row in (values, 1e28 * (1 - np.exp(-np.arange(30) / 15) * np.log1p(np.arange(30)))):
        assert fit_curve(np.arange(30), row, loss="huber").r2 is not None


def test_another_loss_is_refused() -> None:
    with pytest.raises(UsageError, match="squares or huber, got 'absolute'"):
        fit_curve(STEPS, TRUE(STEPS), loss="absolute")


@pytest.mark.parametrize("loss", ["squares", "huber"])
def test_the_unit_of_one_series_does_not_weigh_on_another(loss: str) -> None:
    values = np.stack([noisy(1), noisy(2)])
    weights = np.random.default_rng(0).uniform(0.1, 3, size=values.shape)
    alike = fit_curves(STEPS, values, weights, loss=loss)
    unlike = fit_curves(STEPS, values, weights * [[1.0], [2.0**30]], loss=loss)
    assert [one.curve for one in alike] == [one.curve for one in unlike]
