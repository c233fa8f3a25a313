"""Noise: Brownian motion where nothing pulls, the plain model where there is none, and seeds."""

from __future__ import annotations

import numpy as np
import torch

import ontogeny
from ontogeny.dynamics.particles.model import Model
from ontogeny.dynamics.particles.noise import heun, spans
from tests.dynamics.particles.reference import betas, states


def test_without_a_pull_the_correlation_decays_as_that_of_brownian_motion():
    """V = 0 leaves the noise alone: E<x(t), x(0)> = exp(-(d - 1) sigma^2 t / 2)."""
    times = np.array([0.0, 0.25, 1.0])
    for d, sigma in ((2, 1.0), (4, 0.7)):
        found = ontogeny.simulate(
            50,
            d,
            V=np.zeros((d, d)),
            noise=sigma,
            noise_step=0.04,
            samples=60,
            horizon=1.0,
            times=times,
            keep_states=True,
        )
        x = found["state"].values[0]
        correlation = (x * x[:, :1]).sum(-1)[:, 1:].transpose(1, 0, 2).reshape(2, -1)
        error = correlation.std(axis=-1) / correlation.shape[-1] ** 0.5
        expected = np.exp(-(d - 1) * sigma**2 * times[1:] / 2)
        assert np.all(np.abs(correlation.mean(axis=-1) - expected) < 4 * error), (correlation.mean(axis=-1), expected)
        assert np.abs(np.linalg.norm(x, axis=-1) - 1).max() < 1e-12


def test_a_kick_of_nothing_is_heuns_method_for_the_plain_model():
    x, beta = states(0, 8, 3), betas(3.0)[:, None, None]
    errors = []
    exact = x
    for _ in range(2048):
        exact = heun(Model(), beta, exact, 1 / 2048, torch.zeros_like(x))
    for number in (16, 32, 64):
        found = x
        for _ in range(number):
            found = heun(Model(), beta, found, 1 / number, torch.zeros_like(x))
        errors.append((found - exact).abs().max().item())
    assert np.all(np.abs(np.log2(np.divide(errors[:-1], errors[1:])) - 2) < 0.3), errors


def test_steps_land_on_the_recorded_times_and_are_no_longer_than_asked():
    steps = list(spans(np.array([0.0, 0.013, 0.5]), 1.0, 0.1))
    starts, ends = np.array(steps).T
    assert starts[0] == 0 and ends[-1] == 1 and np.array_equal(starts[1:], ends[:-1])
    assert {0.013, 0.5} < set(ends) and (ends - starts <= 0.1 + 1e-12).all() and len(steps) == 11


def test_noise_is_that_of_the_sample_whatever_else_is_simulated():
    settings = {"noise": 0.3, "horizon": 1.0, "times": [0.0, 1.0], "keep_states": True}
    both = ontogeny.simulate(6, 3, [1.0, 5.0], samples=3, **settings)["state"].values
    one = ontogeny.simulate(6, 3, [5.0], samples=2, **settings)["state"].values
    np.testing.assert_allclose(one[0], both[1, :2], rtol=0, atol=1e-12)
    other = ontogeny.simulate(6, 3, [5.0], samples=2, start=one[0, :, 0], seed=1, **settings)["state"].values
    np.testing.assert_allclose(other[:, :, 0], one[:, :, 0], rtol=0, atol=1e-15)
    assert np.abs(other - one).max() > 0.05
    assert np.abs(both[0, 0, 1] - both[0, 1, 1]).max() > 0.05


def test_small_noise_keeps_clusters_and_large_noise_breaks_them():
    settings = {"start": "caps:2", "horizon": 10.0, "thresholds": (0.9,), "times": [0.0, 10.0]}
    few, many = (
        ontogeny.simulate(16, 3, 12.0, kind="sa", noise=noise, noise_step=0.1, **settings) for noise in (0.02, 1.5)
    )
    assert few["cluster_count"].values[0, 0, -1, 0] == 2 < many["cluster_count"].values[0, 0, -1, 0]
    assert few["verdict"].item() == many["verdict"].item() == "horizon" and few["steps"].item() == 100
