"""The geometry of states over depth: against loops over pairs in float64, and where it is known in advance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ontogeny
from ontogeny.dataset import SELECTIONS
from ontogeny.dynamics.backcopy import VOCABULARY, is_trigger, sample
from ontogeny.probes.capture import CLUSTERS, clusters, run_pass
from ontogeny.probes.capture.clusters import BETAS, SAMPLE_SEED, SHUFFLE_SEED, ClusterStream, permutations, shuffled
from ontogeny.probes.clusters import error_over_sequences, geometry, plateaus
from tests.models import tiny, token_ids
from tests.probes.plain import FLOATS, LAYERS, LENGTH, close, measured, measured_of, plain_of
from tests.probes.plain_clusters import plain_over_depth, plain_plateaus, plain_share

FAMILIES = ["gpt_neox", "llama", "gpt2", "gemma2", "bert"]
MEANS = ["mean_cosine", "matrix_entropy", "anisotropy", "effective_rank"]
SPHERE = ["mean_cosine", "energy", "count", "persistence"]
NAMES = {"count": "cluster_count", "persistence": "cluster_persistence"}


@pytest.mark.parametrize(
    ("family", "suffix"), [*((family, "") for family in FAMILIES), ("gpt_neox", "_shuffled"), ("gemma2", "_shuffled")]
)
def test_every_number_equals_loops_over_tokens(family, suffix):
    whole = np.ones(LENGTH, bool)
    expected = [
        [plain_over_depth(states, whole, kind, bool(suffix)) for states in plain_of(family).states] for kind in range(2)
    ]
    for dtype in FLOATS:
        found = measured_of(family, dtype)
        for kind in range(2):
            at = found.isel(selection=kind)
            for name in (*MEANS, "energy", "count", "persistence"):
                mean = np.mean([one[name] for one in expected[kind]], axis=0)
                close(at[NAMES.get(name, name) + suffix], mean, family, dtype, name)
            several = [one["count"] for one in expected[kind]]
            error = np.std(several, axis=0, ddof=1) / np.sqrt(len(several))
            np.testing.assert_allclose(at[f"cluster_count_error{suffix}"], error, atol=1e-12)
            inside = [plain_share(one) for one in expected[kind]]
            np.testing.assert_allclose(at[f"plateau_share{suffix}"], np.mean(inside, axis=0))
            if not suffix:
                tokens = np.mean([one["tokens"] for one in expected[kind]], axis=0)
                np.testing.assert_allclose(at.cluster_tokens, tokens)
                np.testing.assert_allclose(at.paired_tokens, tokens)
    count = found[f"cluster_count{suffix}"]
    assert np.isnan(found[f"cluster_persistence{suffix}"][:, 0]).all()
    if not suffix and family in ("gpt_neox", "llama", "gemma2"):
        assert ((count > 1.5) & (count < LENGTH - 1.5)).any() and (found.plateau_share > 0).any()


def test_the_error_of_a_count_is_over_the_sequences_that_have_one():
    count = np.full((3, 1, 1, 2), np.nan)
    count[:2, 0, 0, 0], count[0, 0, 0, 1] = (2, 5), 4
    error = error_over_sequences(count)
    assert error[0, 0, 0] == pytest.approx(1.5) and np.isnan(error[0, 0, 1])


def test_plateaus_equal_a_loop_over_depths():
    generator = np.random.default_rng(0)
    shape = (40, 9, 2, 3)
    arrays = {
        "count": generator.choice([1.0, 2, 3, 4, np.nan], size=shape, p=[0.1, 0.35, 0.3, 0.2, 0.05]),
        "persistence": generator.choice([0.5, 0.9, 1.0, np.nan], size=shape, p=[0.15, 0.4, 0.4, 0.05]),
        "paired": generator.choice([4, 5], size=shape[:3], p=[0.3, 0.7]),
    }
    found = plateaus(arrays)
    for n, kind, bound in np.ndindex(40, 2, 3):
        at = (n, slice(None), kind, bound)
        expected = plain_plateaus(arrays["count"][at], arrays["persistence"][at], arrays["paired"][n, :, kind])
        assert found.length[at].tolist() == [length for _, length in expected]
        inside = found.length[at] > 0
        assert found.start[at][inside].tolist() == [start for start, length in expected if length]
    assert {0, 2, 3, 4} <= set(found.length.flat)


def test_the_longest_plateau_of_a_sequence_is_the_first_of_equals():
    """Directions whose clusters are known: two pairs for two depths, then one cluster, then two pairs for three."""
    pairs = torch.tensor([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1], [0.02, 1]])
    one = torch.tensor([[1.0, 0.01 * n] for n in range(5)])
    other = pairs[[0, 2, 1, 3, 4]]
    for depths, expected in (
        ([pairs, pairs, one, pairs, pairs, pairs], (3, 3, 2)),
        ([pairs, pairs, one, pairs, pairs, one], (0, 2, 2)),
        ([pairs, other, pairs, other, one, one], (-1, 0, -1)),
    ):
        found = ontogeny.measure({"hidden_states": [state[None] for state in depths]}, probes="clusters")
        at = found.sel(sequence=0, selection="all", threshold=0.99)
        assert (int(at.plateau_start), int(at.plateau_length), int(at.plateau_count)) == expected
    assert found.plateau_start.dims == ("sequence", "selection", "threshold")


def test_plateau_shares_are_of_the_sequences_that_have_a_count():
    pairs = torch.tensor([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    states = torch.stack([pairs, pairs.flip(0), torch.tensor([[1.0, 0]]).expand(4, 2)])
    found = ontogeny.measure({"hidden_states": [states, states, states]}, probes="clusters")
    assert found.plateau_share.sel(selection="all", threshold=0.9).values.tolist() == [2 / 3] * 3
    count = np.full((2, 3, 2, 3), 2.0)
    count[1] = np.nan
    arrays = dict.fromkeys([*MEANS, "paired"], np.full((2, 3, 2), 4.0)) | {"energy": np.ones((2, 3, 2, 4))}
    share = geometry(arrays | {"count": count, "persistence": np.ones(count.shape)})["plateau_share"][1]
    assert (share == 1).all()


def reduced(*states, valid=None):
    """What a stream makes of states (B, T, d) one after the other: the last depth's numbers and those shuffled."""
    stream = ClusterStream(valid)
    return [stream.reduce(state) for state in states][-1]


def random_states(seed, batch=2, length=14, width=3, dtype=torch.float64):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [9, 30])  # fewer tokens than dimensions, and more
def test_padding_counts_in_nothing(side, length):
    depths = [random_states(depth, 4, length, 12) for depth in range(3)]
    depths = [state + 2 * state.mean(1, keepdim=True) for state in depths]
    depths[2][:, 4] *= 40
    depths[2][:, -4] *= 40
    valid = torch.ones(4, length, dtype=torch.bool)
    for row in range(3):
        valid[row, slice(0, row) if side == "left" else slice(length - row, None)] = False
    given = [state.masked_fill(~valid[..., None], torch.nan) for state in depths]
    for shuffle, found in enumerate(reduced(*given, valid=valid)):
        for row, kind in np.ndindex(4, 2):
            states = np.stack([state[row] for state in depths])
            expected = plain_over_depth(states, valid[row].tolist(), kind, bool(shuffle))
            for name, values in expected.items():
                np.testing.assert_allclose(
                    getattr(found, name)[row, kind], values[-1], rtol=1e-9, atol=1e-12, err_msg=name
                )


@pytest.mark.parametrize("limit", [4096, 15])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_sequence_has_the_numbers_of_the_bare_one(side, limit, monkeypatch):
    monkeypatch.setattr(clusters, "TOKENS_AT_MOST", limit)
    model, ids = tiny("llama").double(), token_ids(1, 20)
    mask = torch.ones(1, 26, dtype=torch.long)
    mask[0, slice(0, 6) if side == "left" else slice(20, None)] = 0
    padded = torch.full((1, 26), 7)
    padded[mask.bool()] = ids[0]
    bare, found = (run_pass(model, *one, needs={CLUSTERS}).depths for one in ((ids, None), (padded, mask)))
    for one, other in zip(bare, found, strict=True):
        for part in ("clusters", "clusters_shuffled"):
            for name, values in vars(getattr(one, part)).items():
                same = getattr(getattr(other, part), name)
                torch.testing.assert_close(same, values, rtol=1e-6, atol=1e-9, equal_nan=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_neither_the_order_of_tokens_nor_a_rotation_changes_a_number(seed):
    depths = [random_states(seed), random_states(seed + 1) * torch.tensor([3.0, 1, 0.3])]
    expected, _ = reduced(*depths)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(13, generator=generator)])  # first stays
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    for changed in ([state[:, order] for state in depths], [state @ rotation for state in depths]):
        found, _ = reduced(*changed)
        for name, values in vars(expected).items():
            torch.testing.assert_close(getattr(found, name), values, rtol=1e-9, atol=1e-9, msg=name)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_lengths_of_states_change_nothing_on_the_sphere(seed):
    depths = [random_states(seed), random_states(seed + 1)]
    lengths = torch.randn(2, 14, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(20).exp()
    expected, found = reduced(*depths)[0], reduced(depths[0], depths[1] * lengths)[0]
    for name in SPHERE:
        torch.testing.assert_close(getattr(found, name)[:, 0], getattr(expected, name)[:, 0], rtol=1e-9, atol=1e-9)


def test_the_whole_scale_changes_nothing():
    depths = [random_states(0, width=20, dtype=torch.float32), random_states(1, width=20, dtype=torch.float32)]
    for scale in (1e-37, 1e37):
        for one, other in zip(reduced(*depths), reduced(*(state * scale for state in depths)), strict=True):
            for name, values in vars(one).items():
                torch.testing.assert_close(getattr(other, name), values, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_equal_states_are_one_cluster_of_rank_one():
    state = torch.tensor([3.0, -4.0, 0.5]).expand(2, 9, 3)
    for found in reduced(state, state):
        assert (found.count == 1).all() and (found.persistence == 1).all()
        for name, expected in (("mean_cosine", 1), ("matrix_entropy", 0), ("anisotropy", 1), ("effective_rank", 1)):
            torch.testing.assert_close(
                getattr(found, name), torch.full((2, 2), float(expected)).double(), atol=1e-6, rtol=0
            )
        exact = torch.tensor([1 / (2 * beta) for beta in BETAS], dtype=torch.float64)
        torch.testing.assert_close(found.energy, exact.expand(2, 2, 4), rtol=1e-5, atol=0)
    measured = ontogeny.measure({"hidden_states": [state] * 3}, probes="clusters")
    assert (measured.plateau_share == 0).all() and (measured.plateau_start == -1).all()


def test_zero_states_are_clusters_of_their_own_and_have_no_direction():
    state = torch.zeros(1, 5, 3)
    state[0, 1], state[0, 3] = torch.tensor([2.0, 0, 0]), torch.tensor([1.0, 0, 0])
    found, _ = reduced(state)
    assert found.count[0, 0].tolist() == [4, 4, 4]
    assert float(found.mean_cosine[0, 0]) == pytest.approx(2 / 20)
    assert float(found.energy[0, 0, 0]) == pytest.approx((4 + 21 * math.exp(-1)) / (2 * 25))
    assert float(found.effective_rank[0, 0]) == 1
    nothing, baseline = reduced(torch.zeros(1, 5, 3))
    for one in (nothing, baseline):
        assert (one.count[0] == torch.tensor([[5.0], [4.0]])).all() and (one.mean_cosine == 0).all()
        assert one.effective_rank.isnan().all() and one.anisotropy.isnan().all() and one.matrix_entropy.isnan().all()


def test_fewer_than_two_tokens_have_no_geometry():
    depths = [torch.tensor([[[1.0, 2, 0], [2, 1, 0]], [[1, 1, 0], [1, 0, 4]]])] * 2
    found, baseline = reduced(*depths)
    assert found.tokens.tolist() == [[2, 1], [2, 1]]
    for one in (found, baseline):
        for name, values in vars(one).items():
            assert name in ("tokens", "paired") or (values[:, 1].isnan().all() and values[:, 0].isfinite().all()), name
    measured = ontogeny.measure({"hidden_states": [depths[0][..., :2]] * 2}, probes="clusters")
    assert measured.cluster_count.sel(selection="without_sinks").isnull().all()
    assert measured.plateau_share.sel(selection="without_sinks").isnull().all()
    assert (measured.cluster_tokens == np.array([[2], [1]])).all()


def test_tiles_give_the_numbers_of_the_whole(monkeypatch):
    depths = [random_states(seed, batch=5, length=30) for seed in range(2)]
    expected = reduced(*depths)
    monkeypatch.setattr(clusters, "_COSINES_AT_ONCE", 2 * 30 * 30)
    monkeypatch.setattr(clusters, "_KERNEL_AT_ONCE", 7 * 30)
    calls = []
    monkeypatch.setattr(clusters, "linked", lambda *given, linked=clusters.linked: calls.append(1) or linked(*given))
    for one, other in zip(reduced(*depths), expected, strict=True):
        for name, values in vars(one).items():
            torch.testing.assert_close(values, getattr(other, name), rtol=1e-12, atol=1e-12, equal_nan=True)
    assert len(calls) == 2 * 3 * 3


def test_above_the_limit_a_sample_of_tokens_is_paired_and_said(monkeypatch):
    depths = [random_states(seed, length=30) for seed in range(2)]
    whole, arrays = reduced(*depths)[0], {"hidden_states": depths}
    assert ontogeny.measure(arrays, probes="clusters").attrs["clusters_sampled"] == "no"
    monkeypatch.setattr(clusters, "TOKENS_AT_MOST", 12)
    places = clusters.sampled(30)
    assert len(places) == len(set(places)) == 12 and (np.diff(places) > 0).all()
    np.testing.assert_array_equal(places, clusters.sampled(30))
    found = reduced(*depths)[0]
    measured = ontogeny.measure(arrays, probes="clusters")
    assert measured.attrs["clusters_sampled"] == "12 of 30 tokens"
    assert (measured.cluster_tokens.sel(selection="all") == 30).all()
    assert (measured.cluster_tokens.sel(selection="without_sinks") > 24).all()
    assert (measured.paired_tokens.sel(selection="all") == 12).all() and (measured.paired_tokens <= 12).all()
    few = reduced(*(state[:, places] for state in depths))[0]
    for name in ("energy", "count", "persistence", "paired"):
        torch.testing.assert_close(getattr(found, name)[:, 0], getattr(few, name)[:, 0], msg=name)
    for name in (*MEANS, "tokens"):  # which take no pairs, and so every token
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), msg=name)


def test_tokens_that_the_sample_misses_have_no_pairs_and_all_else(monkeypatch):
    monkeypatch.setattr(clusters, "TOKENS_AT_MOST", 12)
    lengths = torch.ones(30, 1, dtype=torch.float64)
    lengths[clusters.sampled(30)] = 100  # so that the sample is of sinks alone
    state = random_states(0, length=30)
    for found in reduced(state / state.norm(dim=-1, keepdim=True) * lengths):
        assert (found.tokens[:, 1] >= 17).all() and (found.paired[:, 1] == 0).all()
        assert found.count[:, 1].isnan().all() and found.energy[:, 1].isnan().all()
        assert all(getattr(found, name).isfinite().all() for name in MEANS)


def test_the_shuffle_permutes_each_dimension_over_the_counted_tokens():
    state, counted = random_states(0, 3, 11, 6), torch.rand(3, 11, generator=torch.Generator().manual_seed(1)) < 0.6
    found = shuffled(state, counted, permutations(state, None))
    assert (found[~counted] == 0).all() and not torch.equal(found[counted], state[counted])
    for row, dimension in np.ndindex(3, 6):
        before, after = (one[row, counted[row], dimension].sort().values for one in (state, found))
        assert torch.equal(before, after)
    assert torch.equal(shuffled(state[1:2], counted[1:2], permutations(state[1:2], None)), found[1:2])


def test_every_permutation_of_the_counted_tokens_is_as_likely():
    """3 of 5 tokens over 60,000 dimensions: each of 6 orders within five standard deviations of a sixth."""
    counted = torch.tensor([[False, True, True, False, True]])
    state = torch.arange(5.0)[None, :, None].expand(1, 5, 60_000)
    found = shuffled(state, counted, permutations(state, None))[0, counted[0]]
    _, times = found.T.unique(dim=0, return_counts=True)
    assert len(times) == 6 and (times - 10_000).abs().max() < 5 * math.sqrt(60_000 * 5 / 36)


def test_batches_change_no_number():
    model = tiny("gpt_neox").double()
    names = ("clusters", "random_tokens")
    ids = token_ids(3, 20)
    one, three = (measured(model, names=names, batch_size=size, ids=ids) for size in (1, 3))
    for name, values in three.data_vars.items():
        np.testing.assert_allclose(one[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_it_is_measured_on_request_alone():
    model, ids = tiny("llama"), token_ids(2, 20)
    with ontogeny.capture(model) as trace:
        model(ids)
    assert trace.depths[0].clusters is None and "cluster_count" not in ontogeny.measure(trace)
    assert "cluster_count" not in measured(model, names=None).data_vars
    with ontogeny.capture(model, needs={CLUSTERS}) as trace:
        for part in ids:
            model(part[None])
    assert trace.available == {"residual", "clusters"} and len(trace.depths) == LAYERS + 1
    assert trace.depths[0].clusters.energy.shape == (2, 2, 4)
    assert ontogeny.measure(trace, probes="clusters").sizes["sequence"] == 2


def test_states_that_are_not_finite_are_refused():
    model = tiny("llama")
    model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(ontogeny.OntogenyError, match="not finite"):
        run_pass(model, token_ids(1, 20), needs={CLUSTERS})


def test_constants_are_in_the_dataset():
    attributes = measured(tiny("gpt2"), names=("clusters",)).attrs
    assert (attributes["outlier_norm"], attributes["plateau_persistence"]) == (5, 0.9)
    assert (attributes["shuffle_seed"], attributes["sample_seed"]) == (SHUFFLE_SEED, SAMPLE_SEED)


def test_the_trained_pocket_model_gathers_tokens_by_what_it_has_to_predict():
    """Its clusters at the last two depths: a token, or, at a trigger, the token before it, which comes next again."""
    series = ontogeny.open_series("pocket")
    ids = sample(12, 64)
    states = [[row[t - 1] + VOCABULARY if is_trigger(row[t]) and t > 1 else row[t] for t in range(64)] for row in ids]
    model = series.checkpoints[-1].load("float32")
    found = ontogeny.measure(model, ids, probes="clusters").sel(selection="all", threshold=0.9)
    assert found.plateau_count.values.tolist() == [len(set(row)) for row in states]
    assert (found.plateau_start == 2).all() and (found.plateau_share == np.array([0, 0, 1, 1])).all()
    untrained = ontogeny.measure(series.checkpoints[0].load("float32"), ids, probes="clusters")
    assert not untrained.plateau_count.sel(selection="all", threshold=0.9).equals(found.plateau_count)


def test_of_a_depth_only_memberships_are_kept_for_the_next():
    """No T x T map stays, and what does stay does not grow with the depths."""
    sequences, length, width = 2, 53, 8
    stream, sizes = ClusterStream(None), []
    for state in torch.randn(4, sequences, length, width, generator=torch.Generator().manual_seed(0)):
        stream.reduce(state)
        held = [one for one in vars(stream).values() if isinstance(one, torch.Tensor)] + [*stream._members.values()]
        assert all(type(one) in (dict, torch.Tensor, type(None)) for one in vars(stream).values())
        assert not any(one.shape[-2:] == (length, length) for one in held)
        sizes.append(sum(one.numel() for one in held))
    labels = 2 * sequences * len(SELECTIONS) * len(clusters.THRESHOLDS) * length  # of states and of shuffled ones
    assert sizes == [labels + sequences * length * width] * 4
