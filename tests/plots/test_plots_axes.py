"""The step axis: where checkpoints lie on it and how it is labelled."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.plots.axes import choose_ticks, format_step, step_axis
from ontogeny.plots.measurements import dataset_of
from tests.synthetic import POCKET_STEPS, PYTHIA_STEPS, scan_dataset


@pytest.mark.parametrize(
    ("step", "label"),
    [(0, "0"), (1, "1"), (512, "512"), (1000, "1k"), (1024, "1,024"), (1500, "1.5k"), (143000, "143k"),
     (1_000_000, "1M"), (2_500_000, "2.5M"), (1_234_567, "1,234,567")],
)  # fmt: skip
def test_labels_are_short_and_exact(step: int, label: str) -> None:
    assert format_step(step) == label


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (0, 143_000, "0 1 10 100 1k 10k 143k"),
        (0, 10_000, "0 1 10 100 1k 10k"),
        (0, 0, "0"),
        (512, 512, "512"),
        (0, 3, "0 1 2 3"),
    ],
)
def test_ticks_are_both_ends_zero_and_decades(first: int, last: int, labels: str) -> None:
    assert " ".join(format_step(step) for step in choose_ticks(first, last)) == labels


@pytest.mark.parametrize(("first", "last"), [(100_000, 143_000), (1000, 1300), (7, 90), (0, 1), (99_000, 99_001)])
def test_a_short_range_is_labelled_too(first: int, last: int) -> None:
    ticks = choose_ticks(first, last)
    assert {first, last} <= set(ticks)
    assert all(first <= tick <= last for tick in ticks)
    assert len(ticks) >= min(3, last - first + 1)


def test_step_zero_is_on_the_log_axis() -> None:
    axis = step_axis(scan_dataset(PYTHIA_STEPS))
    np.testing.assert_allclose(axis.positions, np.log10(1 + np.array(PYTHIA_STEPS)))
    layout = axis.layout()
    assert layout["tickvals"][0] == 0.0
    assert layout["ticktext"] == ["0", "1", "10", "100", "1k", "10k", "143k"]
    np.testing.assert_allclose(layout["tickvals"][-1], np.log10(143_001))
    assert layout["range"][0] < 0 < np.log10(143_001) < layout["range"][1]
    assert axis.names[-1] == "step 143,000"


def test_cells_lie_between_neighbours() -> None:
    axis = step_axis(scan_dataset(POCKET_STEPS))
    assert axis.edges.size == len(POCKET_STEPS) + 1
    assert (axis.edges[:-1] < axis.positions).all()
    assert (axis.positions < axis.edges[1:]).all()
    np.testing.assert_allclose(axis.edges[1], np.log10(2) / 2)


def test_unknown_steps_give_the_checkpoints_names() -> None:
    dataset = scan_dataset((-1, -1, -1))
    names = np.array(["warm", "warm", "cold <b>"], dtype=object)
    axis = step_axis(dataset_of(dataset.assign_coords(checkpoint=names)))
    assert axis.steps is None
    assert axis.positions.tolist() == [0, 1, 2]
    assert axis.names == ("warm (0)", "warm (1)", "cold &lt;b&gt;")
    assert axis.layout()["ticktext"] == list(axis.names)
    assert axis.layout()["title"]["text"] == "checkpoint"


def test_one_unknown_step_or_a_repeated_one_makes_all_of_them_names() -> None:
    assert step_axis(scan_dataset((0, 10, -1))).names == ("step 0, step0", "step 10, step10", "main2")
    assert step_axis(scan_dataset((5, 5))).names == ("step 5, step5 (0)", "step 5, step5 (1)")


def test_without_names_the_revisions_do() -> None:
    dataset = scan_dataset((-1, -1)).drop_vars("checkpoint")
    dataset["revision"] = ("checkpoint", np.array(["v1", "v2"], dtype=object))
    assert step_axis(dataset).names == ("v1", "v2")
    assert step_axis(dataset.drop_vars("revision")).names == ("checkpoint (0)", "checkpoint (1)")


def test_many_names_are_thinned_out() -> None:
    axis = step_axis(scan_dataset((-1,) * 40, sequences=2))
    assert len(axis.names) == 40
    assert len(axis.ticks) <= 12


def test_a_single_checkpoint_has_a_cell_of_its_own() -> None:
    axis = step_axis(scan_dataset((1000,)))
    np.testing.assert_allclose(np.diff(axis.edges), 1.0)
    assert [label for _, label in axis.ticks] == ["1k"]


def test_checkpoints_are_put_in_the_order_of_their_steps() -> None:
    dataset = scan_dataset((0, 10, 100)).isel(checkpoint=[2, 0, 1])
    assert dataset_of(dataset)["step"].values.tolist() == [0, 10, 100]
