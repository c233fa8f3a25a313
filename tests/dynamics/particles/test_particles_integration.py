"""Integration: its order, the sphere, the energy, other integrators, tying, and steps that plateaus do not multiply."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import ontogeny
from ontogeny.dynamics.particles.adaptive import adaptive
from ontogeny.dynamics.particles.dormand_prince import attempt
from ontogeny.dynamics.particles.energy import energy
from ontogeny.dynamics.particles.model import KINDS, Head, Model
from ontogeny.dynamics.particles.step import along
from tests.dynamics.particles.reference import betas, random_heads, states, two_clusters, velocity


def steps_of(model, beta, x, horizon, tolerance=1e-8, budget=5000, tying=True):
    tries = torch.zeros(len(x), dtype=torch.long)
    settings = {"horizon": horizon, "tolerance": tolerance, "budget": budget, "tries": tries, "tying": tying}
    return list(adaptive(model, beta, x, **settings)), tries


def ends(steps, x):
    found = x.clone()
    for step in steps:
        found[step.rows] = step.x
    return found


def fixed(model, beta, x, horizon, number):
    """The states after `number` equal steps, and those in the middle of each by the interpolant."""
    beta, h = beta[:, None, None], torch.full((1, 1, 1), horizon / number, dtype=x.dtype)
    inside = []
    for _ in range(number):
        trial = attempt(lambda at: model.velocity(at, beta), x, model.velocity(x, beta), h)
        path = trial.path(torch.zeros(1, 1, dtype=torch.long), torch.arange(x.shape[1]))
        inside.append(along(path, torch.full((1, 1), 0.5, dtype=x.dtype)))
        x = trial.x
    return x, inside


@pytest.mark.parametrize("kind", ["sa", "usa"])
def test_steps_converge_in_order_five_and_what_lies_inside_in_order_four_or_more(kind):
    x, beta, horizon = states(0, 8, 3), betas(2.0), 2.0
    numbers = [4, 8, 16, 32]
    exact, _ = fixed(Model(kind), beta, x, horizon, 256)
    errors = [(fixed(Model(kind), beta, x, horizon, number)[0] - exact).abs().max().item() for number in numbers]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 5) < 0.5), orders
    firsts = []
    for number in numbers:
        middle, _ = fixed(Model(kind), beta, x, horizon / number / 2, 32)
        firsts.append((fixed(Model(kind), beta, x, horizon, number)[1][0] - middle).abs().max().item())
    assert np.all(np.log2(np.divide(firsts[:-1], firsts[1:])) > 4.5), firsts


@pytest.mark.parametrize("kind", ["sa", "usa"])
def test_the_energy_never_falls_and_states_stay_on_the_sphere(kind):
    for n, d in ((2, 2), (9, 2), (12, 5)):
        beta = betas(0.3, 3.0, 12.0)
        x = states(n, n, d).repeat(len(beta), 1, 1)
        before = energy(x @ x.mT, beta[:, None, None])
        steps, _ = steps_of(Model(kind), beta, x, 1e4)
        assert len(steps) > 30
        for step in steps:
            after = energy(step.x @ step.x.mT, beta[step.rows, None, None])
            assert (after >= before[step.rows] * (1 - 1e-9)).all()
            before[step.rows] = after
            assert (step.x.norm(dim=-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["plain", "heads and mask"])
def test_it_goes_where_another_integrator_goes(kind, case):
    n, d, horizon, beta = 4, 3, 1.0, 3.0
    start = states(4, n, d)[0].numpy()
    matrices = random_heads(5, 2, d, scale=0.4)[0] if case != "plain" else None
    causal = case != "plain"
    times = np.linspace(0, horizon, 4)
    found = ontogeny.simulate(
        beta=beta,
        kind=kind,
        **(matrices or {}),
        causal=causal,
        start=start[None],
        horizon=horizon,
        times=times,
        tolerance=1e-11,
        keep_states=True,
    )

    def right_hand_side(t, y):
        return velocity(y.reshape(n, d), kind, beta, matrices, causal).ravel()

    other = solve_ivp(right_hand_side, (0, horizon), start.ravel(), "DOP853", times, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found["state"].values[0, 0], other.y.T.reshape(-1, n, d), rtol=0, atol=1e-7)


def test_a_step_backwards_leads_from_its_end_to_its_start():
    x = states(2, 6, 3, batch=2)
    steps, _ = steps_of(Model(), betas(2.0, 5.0), x, 3.0, 1e-4)
    which, share = torch.tensor([0, 1]), torch.tensor([0.3, 1.0], dtype=torch.float64)
    back = steps[0].backwards()
    torch.testing.assert_close(back.at(which, share), steps[0].at(which, 1 - share), rtol=0, atol=1e-14)
    torch.testing.assert_close(back.x, x, rtol=0, atol=1e-15)
    assert torch.equal(back.start, steps[0].end) and torch.equal(back.end, steps[0].start)


def test_tying_changes_nothing_but_the_number_of_steps():
    for kind in ("sa", "usa", "sigmoid"):
        beta = betas(4.0, 9.0)
        x = torch.from_numpy(two_clusters(0.3, 5, spread=0.02)).repeat(2, 1, 1)
        (tied, few), (free, many) = (steps_of(Model(kind), beta, x, 100.0, tying=tying) for tying in (True, False))
        assert (ends(tied, x) - ends(free, x)).abs().max() < 1e-6
        assert (few < many).all()
    apart = [float((1 - step.x[0] @ step.x[0].T).max()) for step in tied]
    assert min(apart) < 0.9, "the clusters should have moved"


@pytest.mark.parametrize("kind", ["sa", "usa"])
def test_with_random_queries_and_keys_tying_changes_no_result(kind):
    """V is the identity. Under USA Q and K have norm 1, without which weights grow so that no untied run ends."""
    x, beta = states(8, 7, 3, batch=4), betas(1.0, 2.0, 4.0, 6.0)
    saved = 0
    for seed in range(3):
        matrices, _ = random_heads(seed, 2, 3)
        norms = {name: np.linalg.norm(matrices[name], 2, (1, 2), keepdims=True) ** (kind == "usa") for name in "QK"}
        queries, keys = (torch.from_numpy(matrices[name] / norms[name]) for name in "QK")
        model = Model(kind, tuple(Head(Q=one, K=other) for one, other in zip(queries, keys, strict=True)))
        (tied, few), (free, many) = (steps_of(model, beta, x, 40.0, 1e-10, tying=tying) for tying in (True, False))
        whole = torch.cat([step.rows[step.end == 40] for step in free])
        assert sorted(whole.tolist()) == [0, 1, 2, 3], "an untied run gave up"
        assert (ends(tied, x) - ends(free, x)).abs().max() < 1e-6
        saved += int((many - few).sum())
    assert saved > 20, "particles should have been tied"


def test_a_pair_that_approaches_along_one_tangent_and_parts_along_another_is_not_tied():
    """Between two clusters, which draw particles apart along the second axis and together along the third."""
    pair, clusters = [[1, 1e-8, 0], [1, -1e-8, 9e-8]], np.repeat([[0.5, 0.87, 0], [0.5, -0.87, 0]], 20, axis=0)
    x = np.concatenate([pair, clusters])
    x = torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True))[None]
    tied, free = (ends(steps_of(Model(), betas(8.0), x, 13.0, 1e-12, tying=tying)[0], x) for tying in (True, False))
    assert (free[0, 0] - free[0, 1]).norm() > 1e-4
    assert (tied - free).abs().max() < 1e-6


def test_particles_that_part_are_not_tied():
    """With Q = -I each attends to what is far from it, and two that start within 1e-8 of one another draw apart."""
    start = np.array([[[1.0, 0.0], [1.0, 1e-8], [-1.0, 0.0]]])
    found = ontogeny.simulate(beta=4.0, Q=-np.eye(2), start=start, horizon=60.0, keep_states=True)
    first, second = found["state"].values[0, 0, :, 0], found["state"].values[0, 0, :, 1]
    assert np.linalg.norm(first - second, axis=-1).max() > 1e-5


def test_a_plateau_of_e_to_the_36_takes_a_few_hundred_steps():
    beta = np.array([2.0, 5.0, 10.0, 20.0])
    found = ontogeny.simulate(beta=beta, start=two_clusters(-0.9, 4, spread=0.01), kind="usa", horizon=1e40)
    assert set(found["verdict"].values.ravel()) == {"collapsed"}
    assert found["end_time"].values[-1, 0] > 1e15
    steps = found["steps"].values[:, 0]
    assert np.all(steps < 100 + 20 * beta), steps


def test_a_trajectory_does_not_depend_on_its_company():
    beta = [1.0, 4.0, 9.0]
    together = ontogeny.simulate(8, 3, beta, samples=3, horizon=15.0, keep_states=True)
    alone = ontogeny.simulate(
        beta=4.0, start=together["state"].values[1, 2:, 0], horizon=15.0, keep_states=True, times=together["time"]
    )
    assert together["merger_time"].notnull().values[1, 2].any()
    np.testing.assert_allclose(alone["state"].values[0, 0], together["state"].values[1, 2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(alone["merger_time"].values[0, 0], together["merger_time"].values[1, 2], rtol=1e-8)


def test_more_trajectories_than_move_at_a_time_are_all_simulated():
    many = ontogeny.simulate(64, 2, [1.0, 2.0], samples=50, times=[0.0, 2.0], horizon=2.0, tolerance=1e-4)
    few = ontogeny.simulate(64, 2, [2.0], samples=50, times=[0.0, 2.0], horizon=2.0, tolerance=1e-4)
    assert many["energy"].notnull().all() and (many["end_time"] == 2.0).all()
    np.testing.assert_allclose(many["energy"].values[1], few["energy"].values[0], rtol=1e-9)
