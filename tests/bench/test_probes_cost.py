"""What the default probes add to plain passes: how it is measured, and that the page holds what was."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from ontogeny.bench.models import ModelCase
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def cost():
    return benchmark_script("probes")


def test_all_ways_run_the_same_tokens_and_ours_measures(cost):
    import torch

    model = ModelCase(2, 32, 4, 300).model("eager", torch.device("cpu"))
    ids = np.random.default_rng(0).integers(3, 300, (10, 24))
    ways, seen = cost.contenders(model, ids), []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((*args, kwargs.get("input_ids"), model.config._attn_implementation)),
        with_kwargs=True,
    )
    results = {}
    for name, run in ways.items():
        seen.clear()
        results[name] = run()
        assert np.array_equal(torch.cat([batch for batch, *_ in seen]), ids) and len(seen) == 2
        assert {attention for *_, attention in seen} == {"ontogeny" if name == cost.OURS else "sdpa"}
    hook.remove()
    measured = results[cost.OURS]
    assert {"sink_score", "update_norm", "secondary_sinks", "waiver_rate", "massive_rate"} <= set(measured)
    assert measured.attrs["update_norm"] == "captured" and measured.sizes["sequence"] == 10


def test_ratios_are_of_runs_in_one_round(cost):
    slow = iter([0.01] * cost.WARM_UP + [0.04, 0.02, 0.06])
    base = 0.02
    ways = {
        cost.PLAIN: lambda: _work(base),
        cost.HEAD: lambda: _work(2 * base),
        cost.OURS: lambda: _work(next(slow)),
    }
    found = cost.bench("case", ways, 3, threads=1)
    assert found["seconds"][cost.OURS][1] == pytest.approx(0.04, rel=0.1)
    assert found["ratios"][cost.PLAIN] == pytest.approx([1.5, 2, 2.5], rel=0.1)
    assert found["ratios"][cost.HEAD] == pytest.approx([0.75, 1, 1.25], rel=0.1)
    assert found["disturbed"] == 0


def test_a_disturbed_run_is_repeated_and_counted_where_it_stays_so(cost, monkeypatch):
    monkeypatch.setattr(cost, "PATIENCE", 3)
    others = iter([0.5, 0.5, 0.0] * 3 * (cost.WARM_UP + 2))
    monkeypatch.setattr(cost, "_timed", lambda run: (run(), next(others)))
    ways = {name: lambda: 1.0 for name in (cost.PLAIN, cost.HEAD, cost.OURS)}
    assert cost.bench("case", ways, 2, threads=2)["disturbed"] == 0
    assert next(others, None) is None
    monkeypatch.setattr(cost, "_timed", lambda run: (run(), 0.5))
    assert cost.bench("case", ways, 2, threads=2)["disturbed"] == 6


def _work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_page_shows_every_measured_number(cost):
    page = cost.PAGE.read_text()
    assert cost.tables().strip() in page
    files = {path.stem: json.loads(path.read_text()) for path in cost.RESULTS.glob("*.json")}
    assert files
    for found in files.values():
        for case in found["cases"]:
            low, middle, high = case["ratios"][cost.PLAIN]
            assert f"{middle:.2f} | {low:.2f}-{high:.2f}" in page


def test_the_probes_add_at_most_half(cost):
    """The bound that the page states, of all that was measured of the present code."""
    present = [json.loads(path.read_text()) for path in cost.RESULTS.glob("*.json") if "before" not in path.stem]
    assert present
    for found in present:
        for case in found["cases"]:
            assert case["ratios"][cost.PLAIN][1] <= 1.5
