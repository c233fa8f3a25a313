"""The benchmark of whole models: every way to the statistics gives the same numbers before it is timed."""

from __future__ import annotations

import pytest
import torch

from ontogeny.bench import models as bench
from ontogeny.errors import OntogenyError

CASE = bench.ModelCase(layers=2, width=32, heads=4, vocabulary=60, batch=2, length=24)
CPU = torch.device("cpu")


def test_every_way_to_measure_a_model_is_timed():
    records = bench.bench_models(CASE, CPU, repeats=1)
    assert [record.contender for record in records if not record.note] == [
        bench.PLAIN,
        "ontogeny capture",
        "ontogeny capture + SDPA's output",
        "transformers, maps kept + reductions",
        "TransformerLens cache + reductions",
    ]
    assert all(record.milliseconds > 0 for record in records)


@pytest.mark.parametrize("name", ["from_transformers", "from_transformer_lens"])
def test_no_model_is_timed_while_a_number_is_wrong(monkeypatch, name):
    right = getattr(bench, name)

    def wrong(model, ids):
        found = right(model, ids)
        if getattr(model, "dtype", None) != torch.float64:
            found["sink_score"] = found["sink_score"].roll(1, -1)
        return found

    monkeypatch.setattr(bench, name, wrong)
    monkeypatch.setattr(bench, "measure_costs", lambda *_: pytest.fail("timed"))
    with pytest.raises(OntogenyError, match="`sink_score` is off by"):
        bench.bench_models(CASE, CPU, repeats=1)


def test_without_transformer_lens_it_says_so(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda _: None)
    records = bench.bench_models(CASE, CPU, repeats=1)
    assert [record.note for record in records if record.note] == ["transformer-lens is not installed"]
