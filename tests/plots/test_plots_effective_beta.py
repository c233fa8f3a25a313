"""The figure of effective betas: a dot a head, and the mean cosine beside what is predicted of it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny import plots
from ontogeny.errors import OntogenyError, UsageError

LAYERS, HEADS = 3, 4


@pytest.fixture
def scan() -> xr.Dataset:
    rng = np.random.default_rng(0)
    heads, depths = ("checkpoint", "selection", "layer", "head"), ("checkpoint", "selection", "depth")
    return xr.Dataset(
        {
            "effective_beta": (heads, rng.normal(2, 3, (2, 2, LAYERS, HEADS))),
            "effective_beta_r2": (heads, rng.uniform(0, 1, (2, 2, LAYERS, HEADS))),
            "mean_cosine": (depths, rng.uniform(0, 0.8, (2, 2, LAYERS + 1))),
            "cluster_tokens": (depths, np.full((2, 2, LAYERS + 1), 16.0)),
        },
        {"checkpoint": ["a", "b"], "step": ("checkpoint", [8, 4]), "selection": ["all", "without_sinks"],
         "layer": range(LAYERS), "head": range(HEADS), "depth": range(LAYERS + 1)},
        {"series": "made up"},
    )  # fmt: skip


def test_each_head_is_a_dot_and_the_cosines_are_the_predicted_ones(scan: xr.Dataset) -> None:
    fig = plots.effective_beta(scan)
    one = scan.sel(checkpoint="a", selection="without_sinks")  # the last by step
    dots = fig.data[0]
    assert len(dots.x) == LAYERS * HEADS and list(dots.x[:HEADS]) == [0] * HEADS
    np.testing.assert_array_equal(np.reshape(dots.y, (LAYERS, HEADS)), one["effective_beta"])
    np.testing.assert_array_equal(np.reshape(dots.marker.color, (LAYERS, HEADS)), one["effective_beta_r2"])
    predicted = ontogeny.predict_mean_cosine(scan).sel(checkpoint="a", selection="without_sinks")
    expected = [one["mean_cosine"], predicted["predicted_next_mean_cosine"], predicted["predicted_mean_cosine"]]
    for line, values in zip(fig.data[1:], expected, strict=True):
        np.testing.assert_allclose(line.y, values, rtol=1e-6)
    assert "step 8" in fig.layout.title.subtitle.text and "exploratory" in fig.layout.title.subtitle.text


def test_another_selection_and_checkpoint_are_drawn_when_asked_for(scan: xr.Dataset) -> None:
    fig = plots.effective_beta(scan, selection="all", checkpoint=0)
    one = scan.sel(checkpoint="b", selection="all")
    np.testing.assert_array_equal(np.reshape(fig.data[0].y, (LAYERS, HEADS)), one["effective_beta"])
    np.testing.assert_allclose(fig.data[1].y, one["mean_cosine"])


def test_without_clusters_there_are_heads_alone(scan: xr.Dataset) -> None:
    assert len(plots.effective_beta(scan.drop_vars("mean_cosine")).data) == 1


def test_what_is_not_there_is_refused(scan: xr.Dataset) -> None:
    with pytest.raises(OntogenyError, match="scan again with the probe `effective_beta`"):
        plots.effective_beta(scan.drop_vars("effective_beta"))
    with pytest.raises(UsageError, match="expected the selection all or without_sinks, got 'some'"):
        plots.effective_beta(scan, selection="some")
    with pytest.raises(UsageError, match="expected a checkpoint from 0 to 1, got 2"):
        plots.effective_beta(scan, checkpoint=2)
