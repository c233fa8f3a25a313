"""Which steps are missing, by a published grid or a plain stride."""

from __future__ import annotations

import pytest

from ontogeny.dynamics.audit.grid import missing_steps

PYTHIA = [0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)]
EVEN = list(range(0, 20_000, 1000))


def test_pythia_has_its_published_grid() -> None:
    assert len(PYTHIA) == 154
    for source in ("EleutherAI/pythia-2.8b", "EleutherAI/pythia-70m-deduped", "EleutherAI/pythia-14m-seed3"):
        assert missing_steps(source, PYTHIA)[0] == []
    rest = [step for step in PYTHIA if step not in (0, 512, 77_000, 143_000)]
    missing, grid = missing_steps("EleutherAI/pythia-2.8b", rest)
    assert missing == [0, 512, 77_000, 143_000]
    assert "2304.01373" in grid


@pytest.mark.parametrize("source", ["EleutherAI/pythia-70m-v0", "me/pythia-70m", "EleutherAI/pythia-70m@step8"])
def test_other_repositories_are_not_held_against_it(source: str) -> None:
    assert missing_steps(source, [0, 1000]) == ([], "")


def test_holes_in_a_plain_stride() -> None:
    assert missing_steps("x", [step for step in EVEN if step not in (7000, 12_000, 13_000)])[0] == [
        7000,
        12_000,
        13_000,
    ]
    assert missing_steps("x", [0, 1, 2, 4, *[step for step in EVEN if step not in (0, 9000)]])[0] == [9000]


@pytest.mark.parametrize(
    "steps",
    [
        EVEN,
        [*EVEN[:-1], 40_000],  # a last one far off
        EVEN[::3],
        [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048],
        [*range(0, 10_000, 1000), *range(10_000, 100_000, 5000)],  # the stride changes
        [0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 112, 128, 256, 512, 1000, 2000, 3000, 4000, 6000, 10_000],  # pocket
        [0, 1000, 3000, 4000],
        [-1],
        [],
    ],
)
def test_no_false_alarm(steps: list[int]) -> None:
    assert missing_steps("x", steps)[0] == []
