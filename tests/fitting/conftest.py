"""Steps, published figures and a scan to fit."""

from __future__ import annotations

import csv
from collections import defaultdict
from importlib.resources import files

import numpy as np
import pytest
import xarray as xr

from ontogeny.fitting import EmergenceCurve


@pytest.fixture(scope="session")
def pythia_steps() -> np.ndarray:
    """The steps of Pythia's 154 checkpoints."""
    return np.array([0, *2 ** np.arange(10), *range(1000, 143001, 1000)], dtype=float)


@pytest.fixture(scope="session")
def published_rows() -> list[dict[str, str]]:
    with files("ontogeny").joinpath("data", "pythia_massive_activations.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def published_series(published_rows: list[dict[str, str]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each model with curves: its steps (n,) and `top1` of sequence 0 at every block, (m, n)."""
    found: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in published_rows:
        if row["sequence"] == "0" and row["top1"]:
            found[row["model"]][int(row["layer"])][int(row["step"])] = float(row["top1"])
    series = {}
    for model, layers in found.items():
        steps = sorted(layers[0])
        if len(steps) >= 7:
            values = [[layers[layer][step] for step in steps] for layer in sorted(layers)]
            series[model] = (np.array(steps, dtype=float), np.array(values))
    return series


@pytest.fixture
def curves() -> list[EmergenceCurve]:
    """A curve a depth of `scan`: a peak, an increase, and a decay."""
    return [
        EmergenceCurve(A1=40.0, A2=-60.0, K=30.0, beta=1 / 800, tau0=5.0),
        EmergenceCurve(A1=20.0, A2=-180.0, K=150.0, beta=1 / 9000, tau0=60.0),
        EmergenceCurve(A1=-3.0, A2=60.0, K=10.0, beta=1 / 2000, tau0=20.0),
    ]


def described(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "1", "source": "a test"}


@pytest.fixture
def scan(curves: list[EmergenceCurve]) -> xr.Dataset:
    """A dataset in the contract whose ratio of means follows `curves`, while its mean of ratios does not.

    The median and the largest activation differ between sequences; the latter's mean over the former's is the curve.
    """
    steps = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 6000, 8000, 10000])
    ratio = np.stack([curve(steps) for curve in curves], axis=-1)
    median = np.broadcast_to(np.array([0.25, 0.5, 0.75])[:, None], (steps.size, 3, 3))
    top = 0.5 * ratio[:, None] * np.array([1.5, 1.0, 0.5])[:, None]
    rate = np.linspace(0, 1, 2 * 4 * 5 * 16).reshape(5, 2, 4, 16) * (steps / 10000)[:, None, None, None, None]
    ranks = np.array([1.0, 0.5, 0.25])
    dims = ("checkpoint", "sequence", "depth")
    return xr.Dataset(
        {
            "top_activation": ((*dims, "rank"), top[..., None] * ranks, described("largest |h|")),
            "top_position": ((*dims, "rank"), np.zeros((*top.shape, 3), np.int32), described("position")),
            "median_activation": (dims, median, described("median of |h|")),
            "massive_ratio": (dims, top / median, described("ratio")),
            "sink_rate": (("checkpoint", "epsilon", "layer", "head", "position"), rate, described("sink rate")),
            "head_class": (("checkpoint", "layer", "head"), np.ones((steps.size, 2, 4), np.int8), described("class")),
        },
        coords={
            "step": ("checkpoint", steps),
            "revision": ("checkpoint", [f"step{step}" for step in steps]),
            "verdict": ("checkpoint", np.array(["unaudited"] * steps.size, dtype=object)),
            "depth": np.arange(3),
            "layer": np.arange(2),
            "head": np.arange(4),
            "sequence": np.arange(3),
            "position": np.arange(16),
            "rank": [1, 2, 3],
            "epsilon": [0.1, 0.2, 0.3, 0.4, 0.5],
        },
        attrs={"source": "synthetic", "series": "three curves"},
    ).set_xindex("step")
