"""The equiangular flow against many bodies, and what it predicts of a dataset."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy.integrate import quad, solve_ivp

import ontogeny
from ontogeny.dynamics.particles.two_body import two_body_time
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting import equiangular_flow


def simplex(inner, particles, dimension):
    """Unit vectors (n, d), n <= d, of which any two have this inner product, turned at random."""
    gram = np.full((particles, particles), inner) + (1 - inner) * np.eye(particles)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(dimension, dimension)))
    return np.linalg.cholesky(gram) @ turn[:particles]


def many_bodies(start, beta, time, particles, flow, dimension=9):
    """The inner products of all pairs after `time` of the flow of every particle on its own."""

    def field(_, flat):
        x = flat.reshape(particles, dimension)
        weights = np.exp(beta * (x @ x.T - 1))
        weights /= weights.sum(axis=1, keepdims=True) if flow == "sa" else particles
        pull = weights @ x
        return (pull - (pull * x).sum(axis=1, keepdims=True) * x).ravel()

    begin = simplex(start, particles, dimension).ravel()
    end = solve_ivp(field, (0, time), begin, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    x = end.reshape(particles, dimension)
    return (x @ x.T)[~np.eye(particles, dtype=bool)]


@pytest.mark.parametrize("flow", ["sa", "usa"])
@pytest.mark.parametrize("beta", [-2.5, 0.0, 1.0, 6.0])
def test_the_inner_product_of_all_pairs_follows_the_flow(beta, flow):
    for start, time, particles in ((0.05, 0.4, 2), (0.05, 2.5, 7), (-0.1, 1.5, 9), (0.9, 1.0, 5)):
        expected = many_bodies(start, beta, time, particles, flow)
        assert np.ptp(expected) < 1e-10
        np.testing.assert_allclose(equiangular_flow(start, beta, time, particles, flow), expected[0], atol=1e-9)


@pytest.mark.parametrize("flow", ["sa", "usa"])
def test_long_lifetimes_are_those_of_the_integral(flow):
    """The time between two inner products is the integral of 1 / speed, over e^beta of it."""
    n, beta, start, end = 10, 11.0, 0.2, 0.6

    def slowness(r):
        weight = math.exp(beta * r) / (math.exp(beta) + (n - 1) * math.exp(beta * r))
        weight = weight if flow == "sa" else math.exp(beta * (r - 1)) / n
        return 1 / (2 * weight * (1 - r) * ((n - 1) * r + 1))

    time = quad(slowness, start, end, epsabs=0, epsrel=1e-12)[0]
    assert time > 50
    np.testing.assert_allclose(equiangular_flow(start, beta, time, n, flow), end, rtol=1e-8)


@pytest.mark.parametrize("flow", ["sa", "usa"])
def test_of_two_particles_it_undoes_the_time_in_closed_form(flow):
    start, end = np.array([-0.6, 0.0, 0.7]), np.array([0.1, 0.8, 0.99])
    beta = np.array([[0.5], [3.0], [12.0]])
    time = two_body_time(beta, start, end, flow)
    assert time.max() > 1e3
    np.testing.assert_allclose(equiangular_flow(start, beta, time, 2, flow), np.tile(end, (3, 1)), rtol=1e-8)


def test_an_integration_that_fails_is_no_fault_of_the_arguments(monkeypatch):
    failed = SimpleNamespace(success=False, message="Required step size is less than spacing between numbers.")
    monkeypatch.setattr("ontogeny.fitting.equiangular.solve_ivp", lambda *_, **__: failed)
    with pytest.raises(OntogenyError, match=r"could not be integrated .*: Required step size") as caught:
        equiangular_flow(0.2, 1.0, 1.0, 5)
    assert not isinstance(caught.value, UsageError)


def test_the_flow_rests_at_its_ends_goes_on_from_where_it_was_and_broadcasts():
    ends = equiangular_flow([1.0, -1 / 4], [[0.5], [-3.0]], 7.0, 5)
    np.testing.assert_allclose(ends, [[1, -1 / 4]] * 2, atol=1e-12)
    half = equiangular_flow(0.2, [2.0, -4.0], 0.5, 30)
    np.testing.assert_allclose(
        equiangular_flow(half, [2.0, -4.0], 0.7, 30), equiangular_flow(0.2, [2.0, -4.0], 1.2, 30)
    )
    assert (equiangular_flow(0.2, [5.0, -800.0, 800.0], 1e3, 30)[:2] > 1 - 1e-9).all()
    assert equiangular_flow(0.2, 800.0, 1e3, 30) == pytest.approx(0.2)
    found = equiangular_flow([0.3, np.nan, 0.3], [1.0, 1.0, np.nan], 0.0, 4)
    np.testing.assert_allclose(found, [0.3, np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 1.0, 1.0, 4, "up"), "flow: expected sa or usa, got 'up'"),
        ((0.1, 1.0, 1.0, 1), "2 particles or more"),
        ((0.1, 1.0, -1.0, 4), "a time of 0 or more"),
        ((1.1, 1.0, 1.0, 4), "start: expected inner products from"),
        ((-0.4, 1.0, 1.0, 4), "start: expected inner products from"),
    ],
)
def test_what_no_particles_can_do_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        equiangular_flow(*arguments)


CHECKPOINTS, LAYERS, HEADS = 2, 5, 3
SELECTIONS = ["all", "without_sinks"]


def scanned(seed=0, **without):
    """A dataset as a scan with the probes `clusters` and `effective_beta` has it."""
    draw = np.random.default_rng(seed)
    beta = draw.normal(2, 3, (CHECKPOINTS, 2, LAYERS, HEADS))
    cosine = draw.uniform(0.05, 0.7, (CHECKPOINTS, 2, LAYERS + 1))
    tokens = np.broadcast_to([[16.0], [14.5]], cosine.shape)
    variables = {
        "effective_beta": (("checkpoint", "selection", "layer", "head"), beta),
        "mean_cosine": (("checkpoint", "selection", "depth"), cosine),
        "cluster_tokens": (("checkpoint", "selection", "depth"), tokens),
    }
    coordinates = {"selection": SELECTIONS, "checkpoint": ["step0", "step1"], "step": ("checkpoint", [0, 1])}
    return xr.Dataset(variables, coordinates, {"length": 16, "source": "somewhere"})


def speed(_, rho, beta, n):
    return 2 * (1 - rho) * ((n - 1) * rho + 1) / (np.exp(beta * (1 - rho)) + n - 1)


def test_predictions_are_those_of_the_flow_block_after_block():
    dataset = scanned()
    found = ontogeny.predict_mean_cosine(dataset)
    for checkpoint, selection in np.ndindex(CHECKPOINTS, 2):
        measured = dataset.mean_cosine.values[checkpoint, selection]
        rho, n = measured[0], [16, 14.5][selection]
        predicted, ahead = [rho], [np.nan]
        for layer in range(LAYERS):
            beta = sum(dataset.effective_beta.values[checkpoint, selection, layer]) / HEADS
            rho, one = (
                solve_ivp(speed, (0, 1), [begin], args=(beta, n), rtol=1e-10, atol=1e-12).y[0, -1]
                for begin in (rho, measured[layer])
            )
            predicted.append(rho)
            ahead.append(one)
            assert float(found.block_beta[checkpoint, selection, layer]) == pytest.approx(beta)
        at = {"checkpoint": checkpoint, "selection": selection}
        np.testing.assert_allclose(found.predicted_mean_cosine[at], predicted, rtol=1e-7)
        np.testing.assert_allclose(found.predicted_next_mean_cosine[at], ahead, rtol=1e-7)
        changes = np.array(ahead[1:]) - measured[:-1], np.diff(measured)
        assert float(found.change_correlation[at]) == pytest.approx(np.corrcoef(*changes)[0, 1], rel=1e-6)
        error = math.sqrt(np.mean((changes[0] - changes[1]) ** 2))
        assert float(found.change_error[at]) == pytest.approx(error, rel=1e-6)
        assert float(found.no_change_error[at]) == pytest.approx(math.sqrt(np.mean(changes[1] ** 2)))
    assert found.predicted_mean_cosine.dims == ("checkpoint", "selection", "depth")
    assert found.change_correlation.dims == ("checkpoint", "selection")
    assert found.step.values.tolist() == [0, 1] and found.attrs["source"] == "somewhere"
    assert "V = I, no MLP" in found.attrs["exploratory"] and "unit time" in found.attrs["exploratory"]
    assert all(one.attrs["source"] == "arXiv:2312.10794" and one.attrs["long_name"] for one in found.data_vars.values())


def test_a_network_that_is_the_model_is_predicted():
    dataset = scanned()
    beta = dataset.effective_beta.mean("head").values
    cosine = dataset.mean_cosine.values
    for layer in range(LAYERS):
        cosine[..., layer + 1] = equiangular_flow(
            cosine[..., layer], beta[..., layer], 1, dataset.cluster_tokens[..., 0]
        )
    found = ontogeny.predict_mean_cosine(dataset.assign(mean_cosine=(dataset.mean_cosine.dims, cosine)))
    np.testing.assert_allclose(found.predicted_mean_cosine, cosine, rtol=1e-9)
    np.testing.assert_allclose(found.change_correlation, 1, rtol=1e-9)
    assert (found.change_error < 1e-9).all() and (found.no_change_error > 0.01).all()


def test_a_measurement_of_one_model_and_one_without_counts_will_do():
    dataset = scanned()
    one = dataset.isel(checkpoint=1, drop=True)
    whole = ontogeny.predict_mean_cosine(dataset).isel(checkpoint=1, drop=True)
    xr.testing.assert_allclose(ontogeny.predict_mean_cosine(one), whole)
    uncounted = ontogeny.predict_mean_cosine(one.drop_vars("cluster_tokens"))
    same, other = ({"selection": name} for name in SELECTIONS)
    xr.testing.assert_allclose(uncounted.sel(same), whole.sel(same))
    assert not np.allclose(uncounted.predicted_mean_cosine.sel(other), whole.predicted_mean_cosine.sel(other))


def test_heads_and_blocks_without_a_beta_are_left_out():
    dataset = scanned()
    beta = dataset.effective_beta.values
    beta[0, 0, 1, 2], beta[1, 0, 3] = np.nan, np.nan
    found = ontogeny.predict_mean_cosine(dataset)
    assert float(found.block_beta[0, 0, 1]) == pytest.approx(beta[0, 0, 1, :2].mean())
    assert found.predicted_mean_cosine[1, 0].notnull().values.tolist() == [True] * 4 + [False] * 2
    assert found.predicted_next_mean_cosine[1, 0].notnull().values.tolist() == [False] + [True] * 3 + [False, True]
    measured, ahead = (one.values[1, 0] for one in (dataset.mean_cosine, found.predicted_next_mean_cosine))
    kept = [0, 1, 2, 4]
    changes = (ahead[1:] - measured[:-1])[kept], np.diff(measured)[kept]
    assert float(found.change_correlation[1, 0]) == pytest.approx(np.corrcoef(*changes)[0, 1])
    short = dataset.isel(layer=slice(2), depth=slice(3))
    assert ontogeny.predict_mean_cosine(short).change_correlation.isnull().all()


def test_a_dataset_without_what_is_needed_is_refused():
    for name in ("effective_beta", "mean_cosine"):
        with pytest.raises(UsageError, match=f"got none with {name}: measure with probes clusters and effective_beta"):
            ontogeny.predict_mean_cosine(scanned().drop_vars(name))
