"""Clusters, mergers and plateaus: against scipy's components, against a fine grid, and where counts rise."""

from __future__ import annotations

import numpy as np
import pytest
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


def settled(count):
    """The highest count from each time on."""
    return np.maximum.accumulate(count[..., ::-1], axis=-1)[..., ::-1]


def test_mergers_lie_where_a_fine_grid_sees_them():
    times = np.linspace(0, 40, 401)
    found = ontogeny.simulate(14, 3, [2.0, 6.0], samples=3, horizon=40.0, times=times, start="caps:3", cap_radius=0.7)
    mergers = found["merger_time"].values
    assert np.isfinite(mergers).sum() > 150
    counted = found["cluster_count"].transpose("beta", "sample", "threshold", "time").values
    for place in np.ndindex(2, 3, 3):
        before = np.searchsorted(mergers[place][np.isfinite(mergers[place])], times)
        assert np.array_equal(settled(counted[place]), settled(counted[place])[0] - before)


def test_a_chain_that_gathers_in_clusters_has_its_plateau_from_when_they_part():
    """Uniform starts on a circle are near one component at 0.9, and several clusters later."""
    times = np.linspace(0, 20, 2001)
    found = ontogeny.simulate(32, 2, 9.0, samples=6, horizon=20.0, times=times, thresholds=(0.9,))
    counted = found["cluster_count"].values[0, :, :, 0]
    assert (counted.max(axis=1) > counted[:, 0]).sum() >= 3
    for sample in range(6):
        one = found.isel(beta=0, sample=sample, threshold=0)
        peak = times[counted[sample].argmax()]
        if counted[sample].max() > 1:
            assert one["plateau_count"].values[0] == counted[sample].max()
            assert peak - 0.0101 <= one["plateau_start"].values[0] <= peak
        before = np.searchsorted(np.sort(one["merger_time"].values[np.isfinite(one["merger_time"].values)]), times)
        np.testing.assert_array_equal(settled(counted[sample]), counted[sample].max() - before)


def test_plateaus_are_the_stretches_between_mergers():
    found = ontogeny.simulate(12, 3, [3.0, 30.0], samples=4, start="caps:3", cap_radius=0.3, horizon=1e3)
    highest = found["cluster_count"].max("time").values
    for place in np.ndindex(2, 4, 3):
        merger = found["merger_time"].values[place]
        merger = merger[np.isfinite(merger)]
        edges = np.concatenate([[found["plateau_start"].values[place][0]], merger, [np.nan]])
        if highest[place] == 12:
            edges[0] = 0.0
        counts_there = highest[place] - np.arange(len(merger) + 1)
        expected = [(c, edges[k], edges[k + 1]) for k, c in enumerate(counts_there) if 1 < c < 12]
        got = [
            (held, found["plateau_start"].values[place][k], found["plateau_end"].values[place][k])
            for k, held in enumerate(found["plateau_count"].values[place])
            if held > 0
        ]
        np.testing.assert_array_equal(np.array(got).reshape(-1, 3), np.array(expected).reshape(-1, 3))


def test_plateaus_by_hand():
    nan = np.nan
    highest, peak = np.array([4, 3, 1, 2]), np.array([0.0, 0.5, 0.0, 0.0])
    mergers = np.array([[1.0, 2.0, 5.0], [2.0, 2.0, nan], [nan] * 3, [nan] * 3])
    start, end, count = plateaus(highest, peak, mergers)
    np.testing.assert_array_equal(start, [[1, 2, nan], [0.5, nan, nan], [nan] * 3, [0, nan, nan]])
    np.testing.assert_array_equal(end, [[2, 5, nan], [2, nan, nan], [nan] * 3, [nan] * 3])
    np.testing.assert_array_equal(count, [[3, 2, -1], [3, -1, -1], [-1] * 3, [2, -1, -1]])


def test_a_count_that_falls_and_recovers_is_no_merger():
    """Angles of three particles at times 0 to 5, straight between: 2 clusters, then 3, 2, 3, 2, and 1 at last."""
    angles = [[0, 20, 100], [0, 40, 100], [0, 20, 100], [0, 40, 100], [0, 20, 100], [0, 20, 40]]
    angles = torch.tensor(angles, dtype=torch.float64).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
    level = torch.tensor([30.0], dtype=torch.float64).deg2rad().cos()
    record = Record(x[0], torch.ones(1), torch.arange(6.0, dtype=torch.float64), level, keep_states=False)
    for k in range(5):
        start, end = (torch.tensor([one], dtype=torch.float64) for one in (k, k + 1))
        record.take(Step(torch.tensor([0]), start, end, x[k + 1], Chord(x[k], x[k + 1]), torch.tensor([False])))
    assert record.count[0, :, 0].tolist() == [2, 3, 2, 3, 2, 1]
    assert record.highest.item() == 3 and record.peak.item() == pytest.approx(0.5, rel=1e-12)
    # From 40 degrees to 20 a chord passes 30 half way; from 100 to 40 it passes 50 at 20 degrees beyond its middle.
    expected = [3.5, 4.5 + np.tan(np.pi / 9) / np.tan(np.pi / 6) / 2]
    np.testing.assert_allclose(sorted(record.reached[0, 0].tolist()), expected, rtol=1e-10)


def test_with_other_matrices_counts_do_rise_and_mergers_are_those_that_last():
    matrices, _ = random_heads(11, 1, 3, scale=1.0)
    settings = {"horizon": 4.0, "times": np.linspace(0, 4, 121), "thresholds": (0.5,), "tolerance": 1e-11}
    found = ontogeny.simulate(10, 3, 2.0, samples=4, **matrices, **settings)
    count = found["cluster_count"].values[0, :, :, 0]
    assert (np.diff(count) > 0).any(), "no count rose"
    mergers = found["merger_time"].notnull().sum("merger").values[0, :, 0]
    np.testing.assert_array_equal(mergers, count.max(axis=1) - count[:, -1])
