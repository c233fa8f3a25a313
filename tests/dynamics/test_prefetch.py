"""Reading ahead: in order, no further than asked, failures in their place, nothing left behind."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.dynamics.loading.quiet import quiet
from ontogeny.dynamics.prefetch import THREAD, ahead
from ontogeny.errors import UsageError
from tests.checkpoint_folders import edit_weights
from tests.scans import SMALL, Count


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_things_come_in_order_and_no_further_ahead_than_asked(count):
    made, worked = [], threading.Event()

    def make(item):
        made.append(item)
        worked.set()
        return -item

    with ahead(range(1, 8), make, count) as items:
        for item, take in items:
            assert take() == -item
            for _ in range(20):
                worked.wait(0.01)
                worked.clear()
                assert len(made) <= item + count
            assert len(made) == min(item + count, 7)
    assert made == list(range(1, 8)) and not prefetching()


@pytest.mark.parametrize("count", [0, 2])
def test_a_failure_comes_in_its_place(count):
    def make(item):
        if item == 2:
            raise ValueError("two")
        return item

    found = []
    with ahead([1, 2, 3], make, count) as items:
        for _, take in items:
            try:
                found.append(take())
            except ValueError as error:
                found.append(str(error))
    assert found == [1, "two", 3]


def test_leaving_early_gives_up_what_is_ahead():
    made = []
    with pytest.raises(KeyboardInterrupt), ahead(range(100), made.append, 1) as items:
        for _item, take in items:
            take()
            raise KeyboardInterrupt
    assert len(made) <= 3 and not prefetching()


@pytest.mark.parametrize("prefetch", [1, 3])
def test_a_scan_is_the_same_to_the_bit_with_and_without(series, prefetch):
    plain, overlapped = (ontogeny.scan(str(series), prefetch=count, **SMALL) for count in (0, prefetch))
    assert overlapped.dataset.identical(plain.dataset)
    for name in plain.dataset.data_vars:
        np.testing.assert_array_equal(plain.dataset[name].values, overlapped.dataset[name].values, err_msg=name)


def test_the_failure_of_a_checkpoint_read_ahead_is_its_own(series, tmp_path):
    edit_weights(series / "step1", lambda weights: weights.popitem())
    progress = Count()
    scan = ontogeny.scan(str(series), tmp_path / "scan", prefetch=2, progress=progress, **SMALL)
    assert list(scan.failures) == ["step1"] and scan.dataset.step.values.tolist() == [0, 16, 128]
    assert progress.checkpoints == ["step0", "step1", "step16", "step128"]


def test_random_streams_are_left_alone(series):
    state = torch.get_rng_state()
    ontogeny.scan(str(series), **SMALL)
    assert torch.equal(state, torch.get_rng_state())


def test_a_negative_number_is_refused(series):
    with pytest.raises(UsageError, match="0 or more checkpoints to prefetch, got -1"):
        ontogeny.scan(str(series), prefetch=-1, **SMALL)


def test_quiet_in_two_threads_is_undone_by_the_last_one_out():
    from transformers.utils import logging

    filters, level = list(warnings.filters), logging.get_verbosity()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with quiet():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        inside.wait(5)
    assert logging.get_verbosity() != level
    leave.set()
    thread.join()
    assert logging.get_verbosity() == level and list(warnings.filters) == filters


def test_a_scan_leaves_the_filters_of_warnings_as_they_were(series):
    filters = list(warnings.filters)
    ontogeny.scan(str(series), prefetch=1, **SMALL)
    assert list(warnings.filters) == filters
