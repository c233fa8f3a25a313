"""Clusters by single linkage and the adjusted Rand index: planted ones, and scipy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from ontogeny.probes.capture.clusters import THRESHOLDS
from ontogeny.probes.capture.linkage import adjusted_rand, linked
from ontogeny.probes.capture.sphere import directions


def everything(points):
    return torch.ones(len(points), 1, points.shape[1], dtype=torch.bool)


def same_partition(labels, others):
    """Whether two lists of labels name the same groups."""
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


def planted(seed, tokens=40, width=16):
    """Tokens in caps of a few thousandths around 2 to 9 centres, none within a cosine of 0.8 of another."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 10))
    centres = []
    while len(centres) < count:
        one = rng.normal(size=width)
        one /= np.linalg.norm(one)
        if all(one @ other < 0.8 for other in centres):
            centres.append(one)
    member = rng.permutation(np.concatenate([np.arange(count), rng.integers(count, size=tokens - count)]))
    return torch.from_numpy(np.array(centres)[member] + 0.002 * rng.normal(size=(tokens, width))), member, count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_clusters_are_found_in_100_of_100_seeds(dtype):
    points, members, counts = zip(*(planted(seed) for seed in range(100)), strict=True)
    states = directions(torch.stack(points).to(dtype) * torch.rand(100, 40, 1).add(0.1))
    labels = linked(states @ states.mT, everything(states), THRESHOLDS)
    for found, member, count in zip(labels[:, 0], members, counts, strict=True):
        for one in found.tolist():
            assert max(one) == len(set(one)) == count and same_partition(one, member.tolist())
    assert len(set(counts)) == 8


@pytest.mark.parametrize("seed", range(4))
def test_random_components_are_scipys_and_scikit_learns(seed):
    """Three dimensions and 60 tokens, so that the components are of all sizes; some tokens are not counted."""
    generator = torch.Generator().manual_seed(seed)
    states = directions(torch.randn(6, 60, 3, generator=generator, dtype=torch.float64))
    counted = torch.rand(6, 2, 60, generator=generator) < torch.tensor([1.1, 0.7])[:, None]
    cosine, bounds = states @ states.mT, (0.9, 0.95, 0.99)
    labels = linked(cosine, counted, bounds)
    sizes = set()
    for row, kind, index in np.ndindex(6, 2, 3):
        keep = counted[row, kind].numpy()
        found, near = labels[row, kind, index].numpy(), cosine[row].numpy()[keep][:, keep]
        assert (found[~keep] == 0).all()
        count, scipys = connected_components(near > bounds[index])
        assert set(found[keep]) == set(range(1, count + 1)) and same_partition(found[keep].tolist(), scipys.tolist())
        apart = np.clip(1 - near, 0, None)
        bound = np.nextafter(1 - bounds[index], 0)
        dbscan = DBSCAN(eps=bound, min_samples=1, metric="precomputed").fit_predict(apart)
        single = AgglomerativeClustering(None, metric="precomputed", linkage="single", distance_threshold=bound)
        assert same_partition(found[keep].tolist(), dbscan.tolist())
        assert same_partition(found[keep].tolist(), single.fit_predict(apart).tolist())
        sizes.add(count)
    assert len(sizes) > 10


def test_a_cosine_of_exactly_the_threshold_links_nothing():
    cosine = torch.tensor([[1, 0.5, -1], [0.5, 1, -1], [-1, -1, 1]])
    one = torch.ones(1, 1, 3, dtype=torch.bool)
    assert linked(cosine[None], one, (0.5, 0.4999)).amax(-1).tolist() == [[[3, 2]]]
    below = float(np.nextafter(np.float32(0.9), np.float32(0)))  # no float32 is 0.9: the nearest is below it
    for value, count in (
        (below, 2),
        (float(np.float32(0.9)), 2),
        (float(np.nextafter(np.float32(0.9), np.float32(1))), 1),
    ):
        pair = torch.tensor([[[1, value], [value, 1]]], dtype=torch.float32)
        assert int(linked(pair, one[..., :2], (0.9,)).max()) == count


def test_a_chain_is_one_cluster_though_its_ends_are_far_apart():
    angle = torch.arange(8, dtype=torch.float64) * 0.2  # cos 0.2 = 0.98
    points = torch.stack([angle.cos(), angle.sin()], -1)[None]
    cosine = points @ points.mT
    assert linked(cosine, everything(points), THRESHOLDS).amax(-1).tolist() == [[[1, 8, 8]]]
    assert float(cosine[0, 0, -1]) < 0.2


@pytest.mark.parametrize("groups", [(1, 1), (2, 5), (9, 9), (3, 30)])
def test_the_rand_index_is_scikit_learns(groups):
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, high + 1, size=(50, 30)) for high in groups)  # 0 is not counted
    one[:, :2], other[:, :2] = 1, 1
    found = adjusted_rand(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    for value, a, b in zip(found, one, other, strict=True):
        both = (a > 0) & (b > 0)
        assert value == pytest.approx(adjusted_rand_score(a[both], b[both]), abs=1e-12)


def test_equal_trivial_partitions_agree_wholly_and_opposite_ones_by_chance():
    together, apart = torch.ones(5, dtype=torch.long), torch.arange(1, 6)
    assert float(adjusted_rand(together, together)) == float(adjusted_rand(apart, apart.flip(0))) == 1
    assert float(adjusted_rand(together, apart)) == float(adjusted_rand(apart, together)) == 0


def test_fewer_than_two_common_tokens_have_no_index():
    one = torch.tensor([1, 1, 0, 0])
    assert adjusted_rand(one, torch.tensor([0, 1, 1, 1])).isnan() and adjusted_rand(one, one.flip(0)).isnan()
    assert float(adjusted_rand(one, torch.tensor([2, 2, 1, 1]))) == 1


def test_sequences_without_a_counted_token_have_no_cluster():
    cosine = torch.eye(3).expand(2, 3, 3)
    counted = torch.tensor([[[False] * 3], [[True] * 3]])
    assert linked(cosine, counted, (0.9,)).amax(-1).tolist() == [[[0]], [[3]]]
    assert linked(cosine, torch.zeros_like(counted), (0.9,)).sum() == 0
