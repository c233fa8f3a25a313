"""Lagged correlation of short series: against scipy, and how often its interval and its p-value are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, pearsonr

from ontogeny.fitting.correlation import LEAST_PAIRS, correlate, window

LAGS = range(-3, 4)


def autoregressive(rng: np.random.Generator, phi: float, series: int, count: int) -> np.ndarray:
    values = np.zeros((series, count + 50))
    for t in range(1, count + 50):
        values[:, t] = phi * values[:, t - 1] + rng.normal(size=series)
    return values[:, 50:] * np.sqrt(1 - phi**2)


def test_the_correlation_is_pearsons_at_every_lag() -> None:
    rng = np.random.default_rng(0)
    driver, series = rng.normal(size=25), rng.normal(size=(3, 25))
    found = correlate(driver, series, LAGS, 0.95, 9)
    for row, response in enumerate(series):
        for place, lag in enumerate(LAGS):
            before, after = driver[max(0, -lag) : 25 - max(0, lag)], response[max(0, lag) : 25 - max(0, -lag)]
            assert found.correlation[row, place] == pytest.approx(pearsonr(before, after).statistic, abs=1e-12)
            assert found.pairs[place] == before.size
            # a positive lag: the response follows
            assert lag <= 0 or (before[0] == driver[0] and after[0] == response[lag])


@pytest.mark.parametrize(("phi", "count"), [(0.0, 19), (0.5, 19), (0.5, 40), (0.8, 60)])
def test_unrelated_series_are_told_apart_by_chance_as_often_as_stated(phi: float, count: int) -> None:
    rng = np.random.default_rng(7)
    trials = 200
    wrong = sum(
        np.min(correlate(driver, series[None], LAGS, 0.95, 99).p_value) <= 0.05
        for driver, series in zip(*(autoregressive(rng, phi, trials, count) for _ in range(2)), strict=True)
    )
    assert wrong <= binom.ppf(0.999, trials, 0.05), wrong / trials


@pytest.mark.parametrize(("phi", "rho", "count"), [(0.0, 0.0, 19), (0.5, 0.0, 40), (0.5, 0.8, 40), (0.5, 0.8, 100)])
def test_intervals_hold_the_correlation_as_often_as_stated(phi: float, rho: float, count: int) -> None:
    rng = np.random.default_rng(3)
    trials = 200
    drivers, others = (autoregressive(rng, phi, trials, count) for _ in range(2))
    series = rho * drivers + np.sqrt(1 - rho**2) * others
    found = [correlate(one, other[None], [0], 0.95, 199) for one, other in zip(drivers, series, strict=True)]
    inside = sum(bool(one.low[0, 0] <= rho <= one.high[0, 0]) for one in found)
    assert inside >= binom.ppf(0.001, trials, 0.95), inside / trials


def test_every_lag_has_its_own_p_value_of_the_largest_by_chance() -> None:
    rng = np.random.default_rng(1)
    driver, series = rng.normal(size=25), rng.normal(size=(1, 25))
    found, alone = correlate(driver, series, LAGS, 0.95, 1999), correlate(driver, series, [3], 0.95, 1999)
    order = np.argsort(-np.abs(found.correlation[0]))
    assert (np.diff(found.p_value[0, order]) >= 0).all() and np.ptp(found.p_value) > 0.2
    assert found.correlation[0, -1] == alone.correlation[0, 0]
    assert found.p_value[0, -1] > alone.p_value[0, 0] + 0.05  # the largest of seven by chance, against one


@pytest.mark.parametrize("offset", [-30, -25, -3, 0, 2, 25, 30])
def test_windows_of_partners_are_alike_in_length_and_offset_apart(offset: int) -> None:
    later, earlier = (window(np.arange(25), one) for one in (offset, -offset))
    assert later.size == earlier.size == max(0, 25 - abs(offset)) and (later - earlier == offset).all()


@pytest.mark.parametrize("lag", [-2, 0, 3])
def test_a_planted_lag_is_found(lag: int) -> None:
    rng = np.random.default_rng(lag + 5)
    shared = autoregressive(rng, 0.3, 1, 46)[0]
    driver, response = shared[3:43], shared[3 - lag : 43 - lag] + 0.4 * rng.normal(size=40)
    found = correlate(driver, response[None], LAGS, 0.95, 999)
    best = int(np.argmin(found.p_value[0]))
    assert list(LAGS)[best] == lag and found.correlation[0, best] > 0.8
    assert found.p_value[0, best] <= 0.01 and found.low[0, best] > 0.5


def test_one_jump_in_common_is_no_evidence() -> None:
    """A single step in each of two series at the same time correlates fully, and by chance often enough."""
    driver, series = np.zeros(20), np.zeros((1, 20))
    driver[9] = series[0, 9] = 1.0
    found = correlate(driver, series, LAGS, 0.95, 999)
    assert found.correlation[0, 3] == pytest.approx(1) and 0.2 < found.p_value[0, 3] < 0.6
    assert np.isnan(found.low).all() and np.isnan(found.high).all()


def test_too_few_and_constant_ones_have_no_number() -> None:
    rng = np.random.default_rng(1)
    short = correlate(rng.normal(size=LEAST_PAIRS), rng.normal(size=(2, LEAST_PAIRS)), LAGS, 0.95, 99)
    assert np.isfinite(short.correlation).tolist() == [[lag == 0 for lag in LAGS]] * 2
    flat = correlate(rng.normal(size=20), np.full((1, 20), 0.1), LAGS, 0.95, 99)
    for values in (flat.correlation, flat.low, flat.high, flat.p_value):
        assert np.isnan(values).all()
    assert np.isnan(correlate(np.zeros(20), rng.normal(size=(1, 20)), LAGS, 0.95, 99).correlation).all()
