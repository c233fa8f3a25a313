"""The page of measured tables holds what the results hold."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def performance():
    spec = importlib.util.spec_from_file_location("performance", ROOT / "benchmarks" / "performance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_every_measured_number(performance):
    page = performance.PAGE.read_text()
    assert list(performance.RESULTS.glob("*.json"))
    assert performance.tables().strip() in page
    for path in performance.RESULTS.glob("*.json"):
        for record in json.loads(path.read_text())["records"]:
            if not record["note"]:
                digits = 1 if record["milliseconds"] >= 10 else 3
                assert f"| {record['contender']} | {record['milliseconds']:.{digits}f} |" in page


def test_the_page_says_what_was_not_measured(performance):
    on_gpu = any("cuda" in json.loads(path.read_text())["machine"] for path in performance.RESULTS.glob("*.json"))
    assert ("GPU: not yet measured" in performance.PAGE.read_text()) is not on_gpu
