"""Intervals by profile likelihood: against brute force, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.stats import binom, f

from ontogeny.errors import UsageError
from ontogeny.fitting import EmergenceCurve, EmergenceFit, fit_curve, fit_curves
from ontogeny.fitting.projection import Projection

LEVEL = 0.95
STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 112, 128, 256, 512, 1000, 2000, 4000, 6000, 8000, 10000.0])
LAST = 10_000.0
CURVES = {
    "early peak": EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=8 / LAST, tau0=LAST / 400),
    "log increase": EmergenceCurve(A1=2.0, A2=-20.0, K=25.0, beta=0.7 / LAST, tau0=LAST / 150),
    "monotone decay": EmergenceCurve(A1=1.0, A2=60.0, K=10.0, beta=6 / LAST, tau0=LAST / 100),
    "trough": EmergenceCurve(A1=-40.0, A2=60.0, K=800.0, beta=8 / LAST, tau0=LAST / 400),
}
PUBLISHED = ("A", "lambda_", "gamma", "t0")


def noisy(name: str, seed: int, noise: float = 0.05) -> np.ndarray:
    clean = CURVES[name](STEPS)
    return clean + noise * np.ptp(clean) * np.random.default_rng(seed).normal(size=STEPS.size)


class BruteForce:
    """Least squares of the textbook columns under a condition on A1, A2 and K, over all beta and tau0.

    The condition is met exactly, by Lagrange's multiplier; shapes are found on a dense grid and then by simplexes.
    """

    def __init__(self, values: np.ndarray) -> None:
        problem = Projection.of(STEPS, np.ones_like(STEPS))
        scale = np.log([problem.span, 1 / problem.span])
        self.lower, self.upper = problem.lower - scale, problem.upper - scale
        self.values = values
        axes = [np.linspace(low, high, 70) for low, high in zip(self.lower, self.upper, strict=True)]
        self.grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def at(self, theta: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Columns that span the curves: those of the textbook, with the constant and the logarithm's at 0 taken out."""
        beta, tau0 = np.exp(theta)
        decay = np.exp(-beta * steps)
        return np.stack([np.ones_like(steps), (1 - decay) / (beta * LAST), decay * np.log1p(steps / tau0)], axis=-1)

    def slope(self, theta: np.ndarray, step: float) -> np.ndarray:
        beta, tau0 = np.exp(theta)
        decay = np.exp(-beta * step)
        return np.array([0.0, decay / LAST, decay * (1 / (step + tau0) - beta * np.log1p(step / tau0))])

    def row(self, name: str, theta: np.ndarray, z: float) -> tuple[np.ndarray, float]:
        beta, tau0 = np.exp(theta)
        if name == "final_value":
            return self.at(theta, np.array([LAST]))[0], z
        if name == "K":
            return np.array([1.0, 1 / (beta * LAST), 0.0]), z
        if name == "peak_step":
            row = self.slope(theta, z)
            return row / np.linalg.norm(row), 0.0
        if name == "half_rise_step":
            first, middle, last = self.at(theta, np.array([0.0, z, LAST]))
            row = middle - (first + last) / 2
            return row / np.linalg.norm(row), 0.0
        # gamma = exp(A2 / A1); f = k + c0 (1 - decay) / (beta LAST) + c1 decay log(1 + t / tau0)
        row = np.array([0.0, 1 / (beta * LAST), np.log(z) + np.log(tau0)])
        return row / np.linalg.norm(row), 0.0

    def squares(self, theta: np.ndarray, name: str, z: float) -> float:
        row, target = self.row(name, theta, z)
        return self._constrained(theta, row[None], np.array([target]))

    def _constrained(self, theta: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> float:
        design = self.at(theta, STEPS)
        scale = np.linalg.norm(design, axis=0)
        design, rows = design / scale, rows / scale
        particular = np.linalg.lstsq(rows, targets, rcond=None)[0]
        free = np.linalg.svd(rows)[2][len(rows) :].T
        left = self.values - design @ particular
        rest = left - design @ free @ np.linalg.lstsq(design @ free, left, rcond=1e-13)[0]
        return float(rest @ rest)

    def peak_squares(self, place: np.ndarray, z: float) -> float:
        """With place = (ln beta, ln tau0, log(1 + peak step)): both the slope and the height are prescribed there."""
        theta, step = place[:2], np.expm1(place[2])
        if not 0 < step <= LAST or (theta < self.lower).any() or (theta > self.upper).any():
            return np.inf
        slope = self.slope(theta, step)
        if np.linalg.norm(slope) < 1e-200:
            return np.inf
        rows = np.stack([slope / np.linalg.norm(slope), self.at(theta, np.array([step]))[0]])
        return self._constrained(theta, rows, np.array([0.0, z]))

    def least(self, name: str, z: float) -> float:
        """The least sum of squares at which the quantity is z."""
        if name == "peak_value":
            coarse = self.grid.reshape(70, 70, 2)[::4, ::4].reshape(-1, 2)
            places = [np.append(theta, step) for theta in coarse for step in np.log1p([50, 200, 600, 1500, 4000])]
            return self._polished(lambda place: self.peak_squares(place, z), places)

        def inside(theta: np.ndarray) -> float:
            return self.squares(np.clip(theta, self.lower, self.upper), name, z)

        return self._polished(inside, list(self.grid[::2]))

    def _polished(self, squares, places: list[np.ndarray]) -> float:
        costs = np.array([squares(place) for place in places])
        starts = [places[i] for i in np.argsort(costs)[:4]]
        return min(minimize(squares, one, method="Nelder-Mead", options={"xatol": 1e-6}).fun for one in starts)


CASES = [
    *((curve, name) for curve in CURVES for name in ("final_value", "half_rise_step")),
    *(("early peak", name) for name in ("peak_value", "peak_step", "K", "gamma")),
    ("monotone decay", "K"),
    ("trough", "K"),
]


@pytest.mark.parametrize(("curve", "name"), CASES)
def test_the_squares_at_the_ends_are_those_that_the_level_allows(curve: str, name: str) -> None:
    """An end is where the least sum of squares, by brute force, has risen by F / (n - 5) of the minimum.

    3 % of that rise are 1.5 % of the distance of an end from the estimate, or less than 1 % of the width.
    """
    values = noisy(curve, seed=3)
    fit = fit_curve(STEPS, values, level=LEVEL)
    assert fit.curve is not None
    squares = float(((values - fit.curve(STEPS)) ** 2).sum())
    allowed = squares * f.ppf(LEVEL, 1, STEPS.size - 5) / (STEPS.size - 5)
    brute = BruteForce(values)
    ends = [end for end in fit.intervals[name] if np.isfinite(end) and not (name.endswith("_step") and end == 0)]
    assert ends
    for end in ends:
        assert (brute.least(name, end) - squares) / allowed == pytest.approx(1, abs=0.06)


def test_an_interval_is_found_anew_by_root_finding() -> None:
    values = noisy("early peak", seed=1)
    fit = fit_curve(STEPS, values, level=0.9)
    assert fit.curve is not None
    assert fit.final_value is not None
    squares = float(((values - fit.curve(STEPS)) ** 2).sum())
    allowed = squares * f.ppf(0.9, 1, STEPS.size - 5) / (STEPS.size - 5)
    brute = BruteForce(values)
    own = fit.intervals["final_value"]
    width = own.high - own.low

    def excess(z: float) -> float:
        return brute.least("final_value", z) - squares - allowed

    rough = {"xtol": 0.005 * width}
    low = brentq(excess, fit.final_value - width, fit.final_value, **rough)
    high = brentq(excess, fit.final_value, fit.final_value + width, **rough)
    assert own == pytest.approx((low, high), abs=0.02 * width)


def random_curves(count: int, seed: int) -> list[EmergenceCurve]:
    rng = np.random.default_rng(seed)
    return [
        EmergenceCurve.from_original(
            A=rng.uniform(0.1, 1),
            lambda_=rng.uniform(0.02, 0.6),
            gamma=10 ** rng.uniform(-5, -2),
            t0=10 ** rng.uniform(-2, 0.5),
            K=rng.uniform(-1, 1),
        )
        for _ in range(count)
    ]


def test_intervals_hold_the_truth_as_often_as_their_level_says() -> None:
    """150 curves: between the 0.1 % quantiles of coverages of 93 and of 97 %, with which 2,000 curves agree."""
    steps = np.concatenate([[0], np.unique(np.geomspace(1, 143_000, 38).round())])
    curves = random_curves(150, seed=11)
    clean = np.stack([curve(steps) for curve in curves])
    noise = 0.05 * np.ptp(clean, axis=1, keepdims=True)
    fits = fit_curves(steps, clean + noise * np.random.default_rng(12).normal(size=clean.shape), level=LEVEL)
    last = steps.max()

    def truths(curve: EmergenceCurve) -> dict[str, float | None]:
        peak = curve.peak_step(last)
        height = None if peak is None else float(curve(peak))
        half = curve.half_step(0, last)
        return {"final_value": float(curve(last)), "half_rise_step": half, "peak_step": peak, "peak_value": height}

    known = [truths(curve) for curve in curves]
    for name in ("final_value", "half_rise_step", "peak_value", "peak_step"):
        pairs = [
            (fit.intervals[name], truth[name])
            for fit, truth in zip(fits, known, strict=True)
            if name in fit.intervals and truth[name] is not None
        ]
        held = sum(own.low <= truth <= own.high for own, truth in pairs)
        assert binom.ppf(0.001, len(pairs), 0.93) <= held <= binom.ppf(0.999, len(pairs), 0.97), name
    error = np.sqrt(((np.stack([fit.curve(steps) for fit in fits if fit.curve]) - clean) ** 2).mean(axis=1))
    assert (error <= 0.66 * noise[:, 0]).mean() >= 0.97  # with that, errors on fresh values are below 1.2 of the noise


def stated(fit: EmergenceFit) -> dict[str, float | None]:
    found = {name: getattr(fit, name) for name in ("final_value", "half_rise_step", "peak_value", "peak_step")}
    if fit.curve is not None:
        original = fit.curve.original()
        found |= {"K": fit.curve.K} | ({} if original is None else original._asdict())
    return found


def assert_sound(fit: EmergenceFit) -> None:
    """Every interval is one of numbers, low before high, and holds its estimate; nothing determined lacks one."""
    estimates = stated(fit)
    for name, own in fit.intervals.items():
        assert not np.isnan(own).any(), name
        assert own.low <= own.high, name
        estimate = estimates[name]
        assert estimate is not None, name
        slack = 1e-6 * (abs(estimate) + (own.high - own.low if np.isfinite(own.high - own.low) else 0.0))
        assert own.low - slack <= estimate <= own.high + slack, name
        if name in PUBLISHED:
            assert np.isfinite(own).all(), name
        if name.endswith("_step"):
            assert own.low >= 0
    assert set(fit.left_open) <= set(fit.intervals)


grids = st.sampled_from(["small", "repeated", "millions", "late", "dense"])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    grid=grids,
    seed=st.integers(0, 10**6),
    power=st.integers(-30, 30),
    shape=st.sampled_from(["noise", "walk", "constant then noise", "spike", "curve", "integers", "two values"]),
    weighted=st.booleans(),
    loss=st.sampled_from(["squares", "huber"]),
)
def test_any_series_has_intervals_of_numbers(
    grid: str, seed: int, power: int, shape: str, weighted: bool, loss: str
) -> None:
    rng = np.random.default_rng(seed)
    steps = {
        "small": np.sort(rng.choice(20, rng.integers(6, 9), replace=False)).astype(float),
        "repeated": np.repeat(np.sort(rng.choice(1000, 6, replace=False)), 2).astype(float),
        "millions": np.sort(rng.choice(9_000_000, 10, replace=False)).astype(float),
        "late": 100_000 + np.cumsum(rng.integers(1, 1000, 9)).astype(float),
        "dense": np.arange(30.0),
    }[grid]
    n = steps.size
    values = {
        "noise": rng.normal(size=n),
        "walk": rng.normal(size=n).cumsum(),
        "constant then noise": np.where(np.arange(n) < n // 2, 1.0, 1 + rng.normal(size=n)),
        "spike": np.where(np.arange(n) == rng.integers(n), 1.0, 0.0),
        "curve": 1 - np.exp(-steps / steps.mean()) * np.log1p(steps),
        "integers": rng.integers(0, 3, n).astype(float),
        "two values": np.where(np.arange(n) < n // 2, 0.0, 1.0),
    }[shape] * 10.0**power
    weights = rng.uniform(1e-6, 1, n) if weighted else None
    assert_sound(fit_curve(steps, values, weights, level=LEVEL, loss=loss))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    points=st.lists(
        st.tuples(st.integers(0, 10_000_000), st.floats(-1e30, 1e30) | st.just(float("nan"))), min_size=0, max_size=12
    )
)
def test_any_points_have_intervals_of_numbers(points: list[tuple[int, float]]) -> None:
    assert_sound(fit_curve([step for step, _ in points], [value for _, value in points], level=LEVEL))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("factor", "shift"), [(1e6, 0.0), (1e-6, 3e-6), (1.0, -500.0)])
def test_intervals_move_with_the_values(curve: str, factor: float, shift: float) -> None:
    values = noisy(curve, seed=5)
    first = fit_curve(STEPS, values, level=LEVEL)
    second = fit_curve(STEPS, factor * values + shift, level=LEVEL)
    assert set(first.intervals) == set(second.intervals)
    for name, own in first.intervals.items():
        other = np.array(second.intervals[name])
        if name in ("final_value", "peak_value", "K"):
            other = (other - shift) / factor
        if name == "A":
            other = other / factor
        width = own.high - own.low if np.isfinite(own.high - own.low) else abs(own.low)
        np.testing.assert_allclose(other, own, rtol=1e-6, atol=0.02 * width, err_msg=name)


def test_intervals_are_wider_at_a_higher_level_and_with_more_noise() -> None:
    narrow, wide = (fit_curve(STEPS, noisy("early peak", 2), level=level) for level in (0.5, 0.99))
    noisier = fit_curve(STEPS, noisy("early peak", 2, noise=0.1), level=0.5)
    for name in ("final_value", "peak_value", "peak_step", "half_rise_step"):
        low, high = narrow.intervals[name]
        assert wide.intervals[name].low < low < high < wide.intervals[name].high
        assert noisier.intervals[name].high - noisier.intervals[name].low > high - low


@pytest.mark.parametrize("curve", CURVES)
def test_exact_values_leave_next_to_no_doubt(curve: str) -> None:
    true = CURVES[curve]
    fit = fit_curve(STEPS, true(STEPS), level=LEVEL)
    assert fit.left_open == ()
    assert {"final_value", "half_rise_step", "K", *PUBLISHED} <= set(fit.intervals)
    for name, own in fit.intervals.items():
        assert own.high - own.low <= 1e-4 * abs(own.high), name
    assert fit.intervals["final_value"].low <= float(true(LAST)) <= fit.intervals["final_value"].high


def test_what_the_data_leave_open_is_named() -> None:
    rng = np.random.default_rng(1)
    noise = 0.01 * rng.normal(size=STEPS.size)
    rising = fit_curve(STEPS, np.log(STEPS + 50) + noise, level=LEVEL)
    assert "K" in rising.left_open
    assert np.isinf(rising.intervals["K"]).any()
    assert not set(PUBLISHED) & set(rising.intervals)
    assert "final_value" not in rising.left_open

    saturating = fit_curve(STEPS, 5 - 3 * np.exp(-STEPS / 2000) + noise, level=LEVEL)
    assert not set(PUBLISHED) & set(saturating.intervals)
    low, high = saturating.intervals["final_value"]
    assert low < 5 - 3 * np.exp(-5) < high

    alone = fit_curves(STEPS, rng.normal(size=(10, STEPS.size)), level=LEVEL)
    assert all(fit.left_open for fit in alone)
    for fit in alone:
        assert_sound(fit)


def test_an_end_that_only_the_searched_region_sets_is_open() -> None:
    """A series that still rises lets K run off as beta vanishes, at which the search stops; that is no finite end."""
    steps = np.concatenate([[0], np.unique(np.geomspace(1, 143_000, 38).round())])
    true = EmergenceCurve(A1=0.5, A2=-2.0, K=0.3, beta=2e-7, tau0=300.0)
    clean = true(steps)
    values = clean + 0.05 * np.ptp(clean) * np.random.default_rng(4).normal(size=(6, steps.size))
    for fit in fit_curves(steps, values, level=LEVEL):
        assert np.isinf(fit.intervals["K"]).any()
        assert fit.intervals["K"].low <= 0.3 <= fit.intervals["K"].high


def test_a_peak_at_the_end_of_the_series_has_an_open_step() -> None:
    late = EmergenceCurve(A1=2.0, A2=-5.0, K=0.0, beta=2e-5, tau0=50.0)
    peaked = [
        fit
        for fit in fit_curves(
            STEPS, late(STEPS) + 0.3 * np.random.default_rng(0).normal(size=(20, STEPS.size)), level=LEVEL
        )
        if fit.peak_step is not None
    ]
    assert peaked
    assert any("peak_step" in fit.left_open for fit in peaked)


@pytest.mark.parametrize(
    "values",
    [
        [0.16, 0.13, -0.04, -0.01, -0.03, 0.14, 0.09, 0.01, 0.07, 0.14, 0.04],
        [-2.44, 1.8, 1.14, -0.33, 0.77, 0.28, -0.55, 0.98, -0.31, -0.33, -0.79],
    ],
)
def test_the_half_rise_is_not_looked_for_before_the_first_step(values: list[float]) -> None:
    """A curve that rises before the first step and falls after it passes the half on both sides; only one is meant."""
    fit = fit_curve(np.geomspace(1000, 143_000, len(values)), values, level=LEVEL)
    low = fit.intervals["half_rise_step"].low
    assert low >= 1000 or (low == 0 and "half_rise_step" in fit.left_open)


def test_without_a_level_there_are_no_intervals() -> None:
    assert fit_curve(STEPS, noisy("trough", 0)).intervals == {}
    assert fit_curve(STEPS, np.full_like(STEPS, 2.0), level=LEVEL).intervals == {}
    assert fit_curve(STEPS[:5], STEPS[:5], level=LEVEL).left_open == ()


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, float("nan")])
def test_an_impossible_level_is_refused(level: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        fit_curve(STEPS, STEPS, level=level)


def test_weights_repeat_points_in_intervals_too() -> None:
    """Weights of 2 are points measured twice, save that n counts the points: so their intervals are wider."""
    values = noisy("early peak", seed=9)
    weights = np.where(STEPS > 100, 2.0, 1.0)
    weighted = fit_curve(STEPS, values, weights, level=LEVEL)
    repeated = fit_curve(np.repeat(STEPS, weights.astype(int)), np.repeat(values, weights.astype(int)), level=LEVEL)
    assert weighted.curve is not None
    n, many = STEPS.size, int(weights.sum())
    factor = np.sqrt(f.ppf(LEVEL, 1, n - 5) / (n - 5) / (f.ppf(LEVEL, 1, many - 5) / (many - 5)))
    one, other = weighted.intervals["final_value"], repeated.intervals["final_value"]
    assert (one.high - one.low) / (other.high - other.low) == pytest.approx(factor, rel=0.06)


def test_searching_in_blocks_changes_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.stack([noisy("early peak", seed) for seed in range(5)])
    whole = fit_curves(STEPS, values, level=LEVEL)
    monkeypatch.setattr("ontogeny.fitting.profile.BLOCK", 2)
    for one, other in zip(whole, fit_curves(STEPS, values, level=LEVEL), strict=True):
        for name in one.intervals:
            np.testing.assert_allclose(other.intervals[name], one.intervals[name], rtol=1e-6)
