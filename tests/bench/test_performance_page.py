"""The page of measured tables holds what the results hold."""

from __future__ import annotations

import json

import pytest

from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def performance():
    return benchmark_script("performance")


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


def test_the_page_shows_the_kernels_times():
    kernels = benchmark_script("kernels")
    page = kernels.PAGE.read_text()
    assert list(kernels.RESULTS.glob("*.json"))
    assert kernels.tables().strip() in page
    for path in kernels.RESULTS.glob("*.json"):
        for record in json.loads(path.read_text())["records"]:
            row = next(
                line for line in page.splitlines() if line.startswith(f"| {record['case']} | {record['F']:.3f} |")
            )
            both = record["F"] + record["C"]
            assert "flash" not in record or f"| {both / record['flash']:.2f} |" in row
