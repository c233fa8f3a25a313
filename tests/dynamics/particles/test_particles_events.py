"""Clusters, mergers and plateaus: against scipy's components, against a fine grid, and where counts rise."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

import ontogeny
from ontogeny.dynamics.particles.components import counts, labels, linkage
from ontogeny.dynamics.particles.events import plateaus
from ontogeny.dynamics.particles.noise import Chord
from ontogeny.dynamics.particles.record import Record
from ontogeny.dynamics.particles.step import Step
from tests.dynamics.particles.reference import random_heads, states


def test_components_are_those_of_scipy():
    levels = torch.tensor([-0.2, 0.5, 0.8, 0.95], dtype=torch.float64)
    for n, d in ((2, 2), (7, 2), (30, 3)):
        x = states(n, n, d, batch=20)
        cosines = x @ x.mT
        found = counts(linkage(cosines), levels)
        for b in range(20):
            for level in range(len(levels)):
                near = cosines[b] > levels[level]
                number, expected = connected_components(near.numpy(), directed=False)
                assert found[b, level] == number
                mine = labels(near[None])[0].numpy()
                assert (mine[:, None] == mine).tolist() == (expected[:, None] == expected).tolist()
                assert (mine <= np.arange(n)).all()


def test_a_cosine_at_the_threshold_does_not_join():
    cosines = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    assert counts(linkage(cosines), torch.tensor([0.5, 0.4999])).tolist() == [[2, 1]]


def test_mergers_lie_where_a_fine_grid_sees_them():
    times = np.linspace(0, 40, 401)
    found = ontogeny.simulate(14, 3, [2.0, 6.0], samples=3, horizon=40.0, times=times, start="caps:3", cap_radius=0.7)
    mergers = found["merger_time"].values
    assert np.isfinite(mergers).sum() > 150
    for place in np.ndindex(2, 3, 3):
        count = found["cluster_count"].values[place[0], place[1], :, place[2]]
        before = np.searchsorted(mergers[place][np.isfinite(mergers[place])], times)
        assert np.array_equal(count, count[0] - before)


def test_plateaus_are_the_stretches_between_mergers():
    found = ontogeny.simulate(12, 2, [3.0, 30.0], samples=4, start="caps:3", cap_radius=0.3, horizon=1e3)
    for place in np.ndindex(2, 4, 3):
        merger = found["merger_time"].values[place]
        merger = merger[np.isfinite(merger)]
        count = found["cluster_count"].values[place[0], place[1], 0, place[2]]
        edges = np.concatenate([[0.0], merger, [np.nan]])
        expected = [(count - k, edges[k], edges[k + 1]) for k in range(len(merger) + 1) if 1 < count - k < 12]
        got = [
            (held, found["plateau_start"].values[place][k], found["plateau_end"].values[place][k])
            for k, held in enumerate(found["plateau_count"].values[place])
            if held > 0
        ]
        np.testing.assert_array_equal(np.array(got).reshape(-1, 3), np.array(expected).reshape(-1, 3))


def test_plateaus_by_hand():
    nan = np.nan
    first = np.array([4, 3, 1, 2])
    mergers = np.array([[1.0, 2.0, 5.0], [2.0, 2.0, nan], [nan] * 3, [nan] * 3])
    start, end, count = plateaus(first, mergers, 4)
    np.testing.assert_array_equal(start, [[1, 2, nan], [0, nan, nan], [nan] * 3, [0, nan, nan]])
    np.testing.assert_array_equal(end, [[2, 5, nan], [2, nan, nan], [nan] * 3, [nan] * 3])
    np.testing.assert_array_equal(count, [[3, 2, -1], [3, -1, -1], [-1] * 3, [2, -1, -1]])


def test_where_counts_rise_events_follow_the_lowest_so_far():
    """Angles of three particles at times 0 to 4, straight between: 3 clusters, then 2, 3, 2, and 1 at last."""
    angles = torch.tensor([[0, 40, 100], [0, 20, 100], [0, 40, 100], [0, 20, 100], [0, 20, 40]], dtype=torch.float64)
    x = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], dim=-1)[:, None]
    level = torch.tensor([30.0], dtype=torch.float64).deg2rad().cos()
    record = Record(x[0], torch.ones(1), torch.arange(5.0, dtype=torch.float64), level, keep_states=False)
    row = torch.tensor([0])
    for k in range(4):
        start, end = torch.tensor([float(k)], dtype=torch.float64), torch.tensor([k + 1.0], dtype=torch.float64)
        record.take(Step(row, start, end, x[k + 1], Chord(x[k], x[k + 1]), torch.tensor([False])))
    assert record.count[0, :, 0].tolist() == [3, 2, 3, 2, 1]
    first, last = sorted(record.reached[0, 0].tolist())
    # From 40 degrees to 20 a chord passes 30 half way; from 100 to 40 it passes 50 at 20 degrees beyond its middle.
    expected = [0.5, 3.5 + np.tan(np.pi / 9) / np.tan(np.pi / 6) / 2]
    np.testing.assert_allclose([first, last], expected, rtol=1e-10)
    start, end, count = plateaus(record.first.numpy(), np.array([[[first, last]]]), 3)
    assert (start[0, 0, 0], end[0, 0, 0], count[0, 0, 0]) == (first, last, 2) and count[0, 0, 1] == -1


def test_with_other_matrices_counts_do_rise_and_no_merger_is_counted_twice():
    matrices, _ = random_heads(11, 1, 3, scale=1.0)
    found = ontogeny.simulate(10, 3, 2.0, samples=4, **matrices, times=np.linspace(0, 30, 301), thresholds=(0.5,))
    count = found["cluster_count"].values[0, :, :, 0]
    assert (np.diff(count) > 0).any(), "no count rose"
    mergers = found["merger_time"].notnull().sum("merger").values[0, :, 0]
    assert (mergers >= count[:, 0] - count.min(axis=1)).all() and (mergers < 10).all()
    assert (found["plateau_count"] < 10).all()
