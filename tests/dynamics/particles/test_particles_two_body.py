"""Two clusters: the closed form against quadrature, simulations against it, and lifetimes that grow exponentially."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

import ontogeny
from ontogeny.dynamics.particles.two_body import exponential_time, leading_time, next_order_time, two_body_time
from ontogeny.errors import UsageError
from tests.dynamics.particles.reference import two_clusters


def integrand(kind, beta):
    if kind == "usa":
        return lambda c: np.exp(beta * (1 - c)) / (1 - c**2)
    return lambda c: (1 + np.exp(beta * (1 - c))) / (2 * (1 - c**2))


@pytest.mark.parametrize("kind", ["usa", "sa"])
def test_the_closed_form_is_the_integral(kind):
    for beta in (0.1, 1.0, 7.0, 20.0, 60.0):
        for start, end in ((-0.99, -0.9), (-0.9, 0.999), (0.0, 0.5), (0.5, 1 - 1e-6), (0.3, 0.3)):
            expected, error = quad(integrand(kind, beta), start, end, epsabs=0, epsrel=1e-11, limit=400)
            assert two_body_time(beta, start, end, kind) == pytest.approx(expected, rel=1e-9), (beta, start, end, error)


def test_large_beta_does_not_overflow_before_the_time_itself_does():
    assert two_body_time(400.0, 0.0, 0.9) == pytest.approx(float(next_order_time(400.0, 0.0)), rel=1e-4)


@pytest.mark.parametrize("kind", ["usa", "sa"])
@pytest.mark.parametrize("each", [1, 3])
def test_two_particles_and_two_clusters_follow_it(kind, each):
    beta, c = np.array([0.5, 2.0, 8.0]), np.array([-0.9, 0.0, 0.6])
    expected = two_body_time(beta[:, None], c, 0.99, kind)
    found = ontogeny.simulate(
        beta=beta,
        kind=kind,
        start=np.concatenate([two_clusters(one, each) for one in c]),
        times=[0.0],
        horizon=1.01 * expected.max(),
        tolerance=1e-10,
        thresholds=(0.99,),
    )
    np.testing.assert_allclose(found["merger_time"].max("merger").values[..., 0], expected, rtol=1e-8)


@pytest.mark.parametrize("kind", ["usa", "sa"])
def test_the_inner_product_at_any_time_is_that_of_the_closed_form(kind):
    marks = np.array([-0.7, -0.2, 0.4, 0.9])
    times = two_body_time(3.0, -0.8, marks, kind)
    found = ontogeny.simulate(
        beta=3.0,
        kind=kind,
        start=two_clusters(-0.8, 1),
        times=times,
        horizon=times[-1],
        tolerance=1e-11,
        keep_states=True,
    )
    x = found["state"].values[0, 0]
    np.testing.assert_allclose((x[:, 0] * x[:, 1]).sum(-1), marks, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["usa", "sa"])
def test_lifetimes_over_beta_2_to_20_are_those_of_the_integral(kind):
    """Clusters of four that begin spread: from the inner product of their centres to a merger at 0.9."""
    beta = np.array([2.0, 4.0, 6.0, 9.0, 13.0, 20.0])
    start = np.concatenate([two_clusters(c, 4, spread=0.01) for c in (-0.5, 0.2)])
    centres = start.reshape(2, 2, 4, 3).mean(axis=2)
    centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
    expected = two_body_time(beta[:, None], (centres[:, 0] * centres[:, 1]).sum(-1), 0.9, kind)
    found = ontogeny.simulate(
        beta=beta, kind=kind, start=start, horizon=1.1 * expected.max(), times=[0], thresholds=(0.9,)
    )
    assert (found["plateau_count"].values[:, :, 0, 0] == 2).all()
    np.testing.assert_allclose(found["plateau_end"].values[:, :, 0, 0], expected, rtol=0.02)


def test_the_exponential_lacks_a_factor_of_one_over_beta():
    beta = np.array([10.0, 20.0, 40.0, 80.0])
    exact = two_body_time(beta, 0.0, 0.99)
    plain, leading = exponential_time(beta, 0.0), leading_time(beta, 0.0)
    np.testing.assert_allclose(leading, plain / beta)
    assert (np.diff(np.abs(exact / leading - 1)) < 0).all() and exact[-1] / plain[-1] < 0.02
    exact, leading, corrected = (
        two_body_time(beta, 0.3, 0.99),
        leading_time(beta, 0.3),
        next_order_time(beta, 0.3),
    )
    assert (np.abs(exact / corrected - 1) < np.abs(exact / leading - 1) / 2).all()


@pytest.mark.parametrize("c", [-0.5, 0.0, 0.5])
def test_in_stretched_time_clusters_merge_at_1_less_c_as_beta_grows(c):
    """And before that by what the factor 1 / beta brings forward."""
    beta = np.array([20.0, 80.0, 320.0])
    stretched = np.log1p(two_body_time(beta, c, 0.999)) / beta
    forward = np.log(beta * (1 - c**2)) / beta
    np.testing.assert_allclose(stretched, 1 - c - forward, atol=0.01)
    assert (np.diff(np.abs(stretched - (1 - c))) < 0).all() and abs(stretched[-1] - (1 - c)) < 0.02


@pytest.mark.parametrize("bad", [(0.0, 0.1, 0.2), (1.0, -1.0, 0.2), (1.0, 0.3, 0.2), (1.0, 0.3, 1.0)])
def test_times_that_are_infinite_or_backwards_are_refused(bad):
    with pytest.raises(UsageError, match="expected beta > 0 and inner products"):
        two_body_time(*bad)
    with pytest.raises(UsageError, match="expected kind 'sa' or 'usa', got 'relu'"):
        two_body_time(1.0, 0.1, 0.2, "relu")


@pytest.mark.parametrize("kind", ["usa", "sa"])
def test_times_beyond_the_largest_number_are_refused(kind):
    assert np.isfinite(two_body_time(699.0, 0.0, 0.9, kind)) and np.isfinite(exponential_time(699.0, 0.0, kind))
    for late in (
        lambda beta: two_body_time(beta, 0.0, 0.9, kind),
        lambda beta: two_body_time(beta, -0.5, -0.4, kind),
        lambda beta: next_order_time(beta, 0.0, kind),
    ):
        with pytest.raises(UsageError, match=r"expected beta \(1 - start\) <= 700, got"):
            late(720.0)
