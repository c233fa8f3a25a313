"""The velocity field: its definition, its symmetries, and that it climbs the energy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ontogeny.dynamics.particles.contraction import contracts
from ontogeny.dynamics.particles.energy import energy
from ontogeny.dynamics.particles.model import KINDS, Head, Model
from ontogeny.dynamics.particles.sphere import tangent
from tests.dynamics.particles.reference import betas, random_heads, states, velocity

some = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_the_velocity_is_that_of_the_definition(kind, causal):
    x = states(1, 6, 3, batch=2)
    beta = betas(0.7, 5.0)[:, None, None]
    matrices, heads = random_heads(2, 2, 3)
    for model, given_matrices in ((Model(kind, heads, causal), matrices), (Model(kind, causal=causal), None)):
        found = model.velocity(x, beta)
        for b in range(2):
            expected = velocity(x[b].numpy(), kind, beta[b].item(), given_matrices, causal)
            np.testing.assert_allclose(found[b].numpy(), expected, rtol=0, atol=2e-13 * max(1, abs(expected).max()))
        assert (found * x).sum(-1).abs().max() < 1e-13 * max(1, found.abs().max())


@some
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(2, 6), st.floats(0.05, 20), st.sampled_from(KINDS))
def test_particles_may_be_renumbered_and_the_sphere_turned(seed, n, d, beta, kind):
    x, beta = states(seed, n, d), betas(beta)[:, None, None]
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(n))
    turn = torch.from_numpy(np.linalg.qr(rng.standard_normal((d, d)))[0])
    _, heads = random_heads(seed, 2, d)
    turned = tuple(Head(*(turn @ one @ turn.T for one in (head.Q, head.K, head.V))) for head in heads)
    for one, other in ((Model(kind), Model(kind)), (Model(kind, heads), Model(kind, turned))):
        found = one.velocity(x, beta)
        close = {"rtol": 0, "atol": 1e-10 * max(1.0, found.abs().max().item())}
        torch.testing.assert_close(one.velocity(x[:, order], beta), found[:, order], **close)
        torch.testing.assert_close(other.velocity(x @ turn.T, beta), found @ turn.T, **close)


@some
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(2, 6), st.floats(0.05, 20))
def test_usa_and_sa_follow_the_gradient_of_the_energy(seed, n, d, beta):
    """USA is n grad E, the Riemannian gradient; SA is n^2 grad_i E / Z_i, Z_i = sum_j exp(beta (<x_i, x_j> - 1)).

    That is the gradient in the metric that weighs particle i by Z_i, and so it climbs the energy as well.
    """
    x, beta = states(seed, n, d).requires_grad_(), betas(beta)[:, None, None]
    (gradient,) = torch.autograd.grad(energy(x @ x.mT, beta).sum(), x)
    x = x.detach()
    gradient = tangent(x, gradient)
    size = n * gradient.abs().max() + 1e-12
    usa, sa = (Model(kind).velocity(x, beta) for kind in ("usa", "sa"))
    assert (usa - n * gradient).abs().max() < 1e-11 * size + 1e-15
    normaliser = ((x @ x.mT - 1) * beta).exp().sum(-1, keepdim=True)
    assert (sa * normaliser - n**2 * gradient).abs().max() < 1e-11 * n * size + 1e-15


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_flow_is_said_to_contract_every_pair_draws_nearer(kind):
    """Pairs 1e-6 apart, one near each of several clusters and one at a saddle between two, along random tangents."""
    seen, parted = 0, 0
    for seed, matrices in itertools.product(range(12), (False, True)):
        centres = states(seed, 4, 3)[0]
        at = torch.cat([centres, (centres[:2].sum(0) / centres[:2].sum(0).norm())[None]])
        near = at + 1e-6 * tangent(at, states(seed + 100, 5, 3)[0])
        x = torch.cat([at, near / near.norm(dim=-1, keepdim=True)])[None]
        heads = tuple(Head(head.Q, head.K) for head in random_heads(seed, 2, 3, scale=0.3)[1])
        beta = betas([0.5, 4.0, 16.0][seed % 3])[:, None, None]
        model = Model(kind, heads if matrices else (Head(),))
        moved = model.velocity(x, beta)
        parting = ((x[:, 5:] - x[:, :5]) * (moved[:, 5:] - moved[:, :5])).sum(-1) > 0
        said = contracts(model, x, beta)
        assert not (parting & said[:, :5] & said[:, 5:]).any()
        seen, parted = seen + int(said.sum()), parted + int(parting.sum())
    assert seen > 20 and parted > 5, (seen, parted)


def test_sa_is_softmax():
    x, beta = states(3, 12, 4, batch=3), betas(0.1, 3.0, 30.0)[:, None, None]
    torch.testing.assert_close(Model("sa").velocity(x, beta), Model("softmax").velocity(x, beta), rtol=1e-12, atol=0)


def test_pulls_far_below_the_rounding_of_a_cluster_are_seen():
    """Two clusters of 16 at <x, y> = -0.9, beta = 20: exp(-38) times sqrt(1 - 0.81) / 2."""
    x = torch.tensor([[1.0, 0.0], [-0.9, 0.19**0.5]], dtype=torch.float64).repeat_interleave(16, dim=0)[None]
    group = torch.tensor([0, 1]).repeat_interleave(16)
    apart = (group[:, None] != group).to(x.dtype)[None]
    found = Model("usa").velocity(x, betas(20.0)[:, None, None], apart).norm(dim=-1)
    expected = np.exp(-38) * 0.19**0.5 / 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
