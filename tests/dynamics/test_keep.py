"""The policy `--keep`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.keep import Keep
from ontogeny.errors import UsageError


@pytest.mark.parametrize(
    ("policy", "released"),
    [("none", [0, 1, 2, 3]), ("0", [0, 1, 2, 3]), ("1", [0, 1, 2]), (1, [0, 1, 2]), ("3", [0]), ("4", []), ("all", [])],
)
def test_what_falls_out_is_released_in_order(policy: str | int, released: list[int]) -> None:
    gone: list[int] = []
    keep = Keep.parse(policy)
    for step in range(4):
        keep.done(Checkpoint(f"step{step}", step, Path, release=partial(gone.append, step)))
    assert gone == released


def test_what_was_not_downloaded_counts_for_nothing() -> None:
    gone: list[int] = []
    keep = Keep.parse("1")
    keep.done(Checkpoint("step0", 0, Path, release=partial(gone.append, 0)))
    keep.done(Checkpoint("local", 1, Path))
    assert gone == []


@pytest.mark.parametrize("policy", ["", "some", "-1", "1.5", "²", " 2", "None", None, -1, 1.5, True])
def test_nonsense_is_refused(policy: Any) -> None:
    with pytest.raises(UsageError, match=r"expected none, all, or a number of checkpoints"):
        Keep.parse(policy)
