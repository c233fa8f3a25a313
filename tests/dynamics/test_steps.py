"""Which checkpoints `--steps` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.checkpoint import UNKNOWN_STEP, Checkpoint
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.steps import select_steps
from ontogeny.errors import UsageError

POWERS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
PYTHIA = [*POWERS, *range(1000, 144000, 1000)]


def series_of(steps: list[int]) -> Series:
    checkpoints = tuple(Checkpoint(f"step{step}", step, lambda: Path()) for step in steps)
    arch = ArchSpec(layers=1, width=8, heads=1, kv_heads=1, head_dim=8, ffn=32, vocab=10)
    return Series("somewhere", "run", checkpoints, arch, lambda: None)


def selected(steps: list[int], spec: str) -> list[int]:
    return [checkpoint.step for checkpoint in select_steps(series_of(steps), spec).series.checkpoints]


def test_all_takes_every_checkpoint() -> None:
    assert selected(PYTHIA, "all") == PYTHIA


def test_log_takes_the_nearest_step_to_each_power_of_two_and_both_ends() -> None:
    thousands = [1000, 2000, 4000, 8000, 16000, 33000, 66000, 131000, 143000]
    assert selected(PYTHIA, "log") == [*POWERS, *thousands]


def test_log_measures_nearness_in_the_logarithm() -> None:
    # 1024 lies nearer to 800 than to 1300 by difference, but nearer to 1300 by ratio.
    assert 1300 in selected([0, 1, 2, 4, 800, 1300, 2000, 4000], "log")


def test_log_keeps_the_first_step_of_a_series_that_starts_late() -> None:
    assert selected([3000, 5000, 5001, 9000], "log") == [3000, 5000, 9000]


@pytest.mark.parametrize("spec", ["all", "log", " log "])
def test_a_step_that_is_not_known_belongs_to_all_and_log(spec: str) -> None:
    assert selected([UNKNOWN_STEP], spec) == [UNKNOWN_STEP]


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        ("0", [0]),
        ("512, 0,1", [0, 1, 512]),
        ("1000:4000", [1000, 2000, 3000, 4000]),
        ("0:4", [0, 1, 2, 4]),
        ("1000:7000:3000", [1000, 4000, 7000]),
        ("0,1,512,140000:143000:1000", [0, 1, 512, 140000, 141000, 142000, 143000]),
        ("512,512,500:600", [512]),
    ],
)
def test_lists_and_ranges_include_both_ends(spec: str, steps: list[int]) -> None:
    assert selected(PYTHIA, spec) == steps


def test_items_that_match_nothing_are_left_out_and_returned() -> None:
    selection = select_steps(series_of(PYTHIA), "0,7,512,600:900,143001")
    assert [checkpoint.step for checkpoint in selection.series.checkpoints] == [0, 512]
    assert selection.absent == ("7", "600:900", "143001")


def test_nothing_is_absent_from_a_request_that_is_met() -> None:
    assert select_steps(series_of(PYTHIA), "0,1000:143000:1000").absent == ()


@pytest.mark.parametrize("spec", ["", "last", "1,", "-1", "1.5", "1-5", "5:", ":5", "1:2:3:4", "all,1", "0x10", "1_0"])
def test_a_malformed_request_is_refused_with_an_example(spec: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read.*1000:143000:1000"):
        select_steps(series_of(PYTHIA), spec)


@pytest.mark.parametrize("spec", ["9:3", "0:10:0"])
def test_an_empty_range_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="is empty"):
        select_steps(series_of(PYTHIA), spec)


def test_a_request_that_matches_nothing_says_what_the_series_has() -> None:
    with pytest.raises(UsageError, match=r"'7' match no checkpoint: run has 3 steps: 0, 1, 512$"):
        select_steps(series_of([0, 1, 512]), "7")
    with pytest.raises(UsageError, match=r"154 steps: 0, 1, 2, 4, 8, 16, \.\.\., 138000, .*, 143000$"):
        select_steps(series_of(PYTHIA), "7")
    with pytest.raises(UsageError, match="no step numbers; ask for `all`"):
        select_steps(series_of([UNKNOWN_STEP]), "0")


def test_the_restricted_series_is_otherwise_the_same() -> None:
    series = series_of(PYTHIA)
    restricted = select_steps(series, "0,1").series
    assert restricted.with_checkpoints(series.checkpoints) == series


def test_a_huge_range_costs_nothing() -> None:
    assert selected(PYTHIA, "142000:1000000000000") == [142000, 143000]
