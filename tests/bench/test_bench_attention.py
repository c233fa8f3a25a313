"""The attention benchmark: what it checks before it times, what it counts, and what it says it did not measure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ontogeny.bench import attention as bench
from ontogeny.bench.bound import least_seconds
from ontogeny.bench.cases import AttentionCase, default_cases
from ontogeny.bench.memory import peak_bytes
from ontogeny.errors import OntogenyError

CPU = torch.device("cpu")
CASES = [
    AttentionCase(2, 4, 4, 48, 16, torch.float32),
    AttentionCase(2, 4, 2, 48, 16, torch.float32, window=9),
    AttentionCase(2, 4, 4, 48, 16, torch.float32, padded=True),
]


def test_every_contender_is_timed_or_says_why_not():
    records = bench.bench_attention(CASES, CPU, repeats=3)
    assert {record.case for record in records} == {str(case) for case in CASES}
    for record in records:
        if record.note:
            assert record.milliseconds is record.ratio is record.peak_mib is None
        else:
            assert record.milliseconds > 0 and record.peak_mib > 0
    baselines = [record for record in records if record.contender == bench.OUTPUT_ONLY]
    assert [record.ratio for record in baselines] == [1.0] * len(CASES)
    assert {record.contender for record in records if record.note} == {"ontogeny, triton", bench.FLEX}


@pytest.mark.parametrize("field", ["entropy", "column_mass", "output"])
def test_nothing_is_timed_while_a_result_is_wrong(monkeypatch, field):
    right = bench.eager

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        found[field] = found[field] * 1.01
        return found

    monkeypatch.setattr(bench, "eager", wrong)
    monkeypatch.setattr(bench, "measure_costs", lambda *_: pytest.fail("timed"))
    with pytest.raises(OntogenyError, match=f"eager map .*`{field}` is off by"):
        bench.bench_attention(CASES[:1], CPU, repeats=1)


def test_a_result_that_is_not_a_number_is_wrong(monkeypatch):
    right = bench.eager
    monkeypatch.setattr(bench, "eager", lambda *a, **o: {**right(*a, **o), "mass": torch.tensor(torch.nan)})
    with pytest.raises(OntogenyError, match="`mass` is off by nan"):
        bench.bench_attention(CASES[:1], CPU, repeats=1)


def test_what_does_not_fit_into_memory_is_said_and_the_others_are_timed(monkeypatch):
    small = CASES[0].small().length
    right = bench.eager

    def too_large(q, *arguments, **options):
        if q.shape[2] > small:
            raise torch.OutOfMemoryError("no room")
        return right(q, *arguments, **options)

    monkeypatch.setattr(bench, "eager", too_large)
    monkeypatch.setattr(bench.AttentionCase, "small", lambda case: replace(case, length=small))
    records = bench.bench_attention([replace(CASES[0], length=small + 1)], CPU, repeats=1)
    notes = {record.contender: record.note for record in records}
    assert notes[bench.EAGER] == "out of memory"
    assert notes[bench.OUTPUT_ONLY] == notes["ontogeny, blocked"] == ""


def test_what_stands_at_padding_is_not_held_against_anyone(monkeypatch):
    right = bench.sdpa

    def other_padding(q, k, v, **options):
        found = right(q, k, v, **options)
        found["output"][~options["mask"][:, None, :].expand(-1, q.shape[1], -1)] = 7.0
        return found

    monkeypatch.setattr(bench, "sdpa", other_padding)
    assert bench.bench_attention(CASES[2:], CPU, repeats=1)


def test_the_default_cases_are_those_of_the_targets():
    assert str(default_cases(CPU, torch.float32)[0]) == "B4 H12 T1024 d64 float32"
    on_gpu = default_cases(torch.device("cuda"), torch.bfloat16)
    assert {(case.head_size, case.length) for case in on_gpu} >= {(d, t) for d in (64, 128) for t in (2048, 16384)}
    assert str(on_gpu[-3]) == "B8 H32/8 T2048 d64 bfloat16"


def test_the_bound_is_the_derived_one():
    """156 microseconds at d 64, B8, 16 heads, 2048 tokens; the second pass bound by exponentials."""
    case = AttentionCase(8, 16, 16, 2048, 64, torch.bfloat16)
    assert least_seconds(case, "NVIDIA H200") == pytest.approx(156e-6, rel=0.01)
    assert least_seconds(case, "NVIDIA H100 80GB HBM3") == pytest.approx(152e-6, rel=0.01)
    assert least_seconds(case, "some other device") is None


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_memory_counts_each_storage_once(mode):
    x = torch.zeros(1000)
    with mode():
        assert peak_bytes(lambda: x.view(10, 100)) == 0
        assert peak_bytes(lambda: (x + 1).view(10, 100).t()) == 4000
        assert peak_bytes(lambda: (x + 1).view(-1) + 1) == 8000
        assert peak_bytes(lambda: [(x + 1).sum() for _ in range(5)]) == 4000 + 5 * 4
