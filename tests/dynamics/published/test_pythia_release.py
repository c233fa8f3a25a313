"""The published measurements of Pythia: the bundled part, and the release by a stand-in for the Hub."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import ontogeny
from ontogeny.dynamics.published.release import RELEASE, parse
from ontogeny.errors import OntogenyError
from tests.hub_server import Repository, serve

SHAPE_14M = (10, 4, 6)


def printed(values: np.ndarray) -> bytes:
    with np.printoptions(threshold=10**9, linewidth=80, precision=8):
        return str(values).encode()


@pytest.fixture
def numbers() -> dict[int, np.ndarray]:
    draw = np.random.default_rng(0)
    return {step: np.exp(draw.normal(size=SHAPE_14M) * 3).round(5) for step in (0, 1, 1000, 143000)}


@pytest.fixture
def release(numbers: dict[int, np.ndarray]) -> Repository:
    held = {f"pythia_14m/stats/exp2_pythia_14m_step{step}": printed(one) for step, one in numbers.items()}
    one_b = {step: printed(np.full((10, 4, 16), float(step + 1))) for step in (0, 2000)}
    one_b[0] = one_b[0][:-200]
    held |= {f"pythia_1b/stats/exp2_pythia_1b_step{step}": text for step, text in one_b.items()}
    return Repository(branches={"main": {**held, "README.md": b"a card", "pythia_14m/plots/one.png": b"\x89"}})


def test_the_bundled_part_is_a_scan_of_each_size() -> None:
    scans = ontogeny.load_pythia()
    assert {size: scan.dataset.sizes["checkpoint"] for size, scan in scans.items()} == {
        "14m": 7,
        "160m": 12,
        "1b": 7,
        "6.9b": 1,
        "12b": 15,
    }
    with files("ontogeny").joinpath("data", "pythia_massive_activations.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sequence"] == "0"]
    for row in rows:
        dataset = scans[row["model"]].dataset.sel(step=int(row["step"]), depth=int(row["layer"]) + 1, sequence=0)
        for rank, name in enumerate(("top1", "top2", "top3"), 1):
            expected = float(row[name]) if row[name] else np.nan
            np.testing.assert_equal(float(dataset.top_activation.sel(rank=rank)), expected)
        np.testing.assert_equal(float(dataset.median_activation), float(row["median"]) if row["median"] else np.nan)


def test_what_it_lacks_is_said_and_the_rest_is_described() -> None:
    twelve = ontogeny.load_pythia()["12b"].dataset
    assert twelve.attrs["lacking"].startswith("15 of about 154 steps; sequences 1, 2")
    assert "medians at 15 of these steps" in twelve.attrs["lacking"]
    assert json.loads(twelve.attrs["arch"])["heads"] == 40 and twelve.attrs["series"] == "pythia-12b"
    assert list(twelve.depth.values) == list(range(1, 37))
    assert ontogeny.load_pythia()["14m"].dataset.sizes["sequence"] == 3


def test_the_bundled_curves_are_fitted_as_those_of_a_scan() -> None:
    fits = ontogeny.fit(ontogeny.load_pythia()["160m"], "top_activation", level=None)
    assert fits.sizes["depth"] == 12 and float(fits.r2.mean()) > 0.994


def test_the_release_is_read_whole_and_what_is_malformed_is_reported(release, numbers, tmp_path: Path) -> None:
    with serve({RELEASE: release}) as hub:
        scans = ontogeny.load_pythia(full=True, cache=tmp_path, endpoint=hub.endpoint)
        asked = len(hub.requests)
        again = ontogeny.load_pythia(full=True, cache=tmp_path, endpoint=hub.endpoint)
        assert len(hub.requests) == asked + 2  # which commit it is, and what it holds: nothing is fetched again
    assert set(scans) == {"14m", "1b"} and scans["14m"].failures == {}
    for step, values in numbers.items():
        dataset = scans["14m"].dataset.sel(step=step)
        np.testing.assert_allclose(dataset.top_activation, values[:, :3].transpose(0, 2, 1), rtol=1e-7)
        np.testing.assert_allclose(dataset.median_activation, values[:, 3], rtol=1e-7)
    assert list(scans["1b"].dataset.step.values) == [2000]
    assert scans["1b"].failures["step0"].startswith("malformed: expected a printed array of 10 x 4 x 16, got")
    assert again["1b"].failures == scans["1b"].failures
    np.testing.assert_array_equal(again["14m"].dataset.top_activation, scans["14m"].dataset.top_activation)


def test_a_release_that_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.dynamics.loading.retry.PAUSES", ())
    with serve({}) as hub, pytest.raises(OntogenyError, match="could not be had from the Hub"):
        ontogeny.load_pythia(full=True, cache=tmp_path, endpoint=hub.endpoint)
    empty = Repository(branches={"main": {"README.md": b""}})
    with serve({RELEASE: empty}) as hub, pytest.raises(OntogenyError, match="holds no file such as pythia_14m"):
        ontogeny.load_pythia(full=True, cache=tmp_path, endpoint=hub.endpoint)


@pytest.mark.parametrize("spoil", [lambda t: t[:-3], lambda t: t.replace("1.", "x"), lambda t: t + "7", lambda _: ""])
def test_a_text_that_is_no_such_array_is_refused(spoil) -> None:
    text = printed(np.ones(SHAPE_14M)).decode()
    np.testing.assert_array_equal(parse(text, 6), np.ones(SHAPE_14M))
    np.testing.assert_array_equal(parse(f"array({np.ones(SHAPE_14M).tolist()})", 6), np.ones(SHAPE_14M))
    with pytest.raises(OntogenyError, match="malformed: expected a printed array of 10 x 4 x 6"):
        parse(spoil(text), 6)
