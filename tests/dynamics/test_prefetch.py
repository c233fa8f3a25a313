"""Reading ahead: in order, no further than asked, failures in their place, nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ontogeny
from ontogeny.dynamics.loading import model, weights
from ontogeny.dynamics.loading.quiet import quiet
from ontogeny.dynamics.prefetch import THREAD, ahead
from ontogeny.errors import UsageError
from tests.checkpoint_folders import edit_weights, to_bin
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


def to_state_dict(folder):
    (to_bin(folder) / "pytorch_model.bin").rename(folder / "weights.pt")


@pytest.mark.parametrize("change", [lambda folder: None, to_bin, to_state_dict])
def test_the_thread_reads_weights_and_leaves_torchs_default_dtype_alone(series, monkeypatch, change):
    """A pass in the main thread would see it: transformers sets it to make a model."""
    for step in series.iterdir():
        change(step)
    setters, readers = [], []
    set_default, read = torch.set_default_dtype, weights.in_memory

    def recorded_set(dtype):
        setters.append(threading.current_thread().name)
        set_default(dtype)

    def recorded_read(mapped):
        readers.append(threading.current_thread().name)
        return read(mapped)

    monkeypatch.setattr(torch, "set_default_dtype", recorded_set)
    monkeypatch.setattr(model, "in_memory", recorded_read)
    found = ontogeny.scan(str(series), dtype="bfloat16", probes=["massive"], **SMALL)
    assert found.failures == {}
    assert readers == [THREAD] * 4
    assert THREAD not in setters and len(setters) >= 8


def test_all_kinds_of_tensors_come_into_memory_as_they_are(tmp_path):
    whole = {
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "flags": torch.tensor([True, False]),
        "large": torch.randn(100, 200, generator=torch.Generator().manual_seed(0)),
    }
    torch.save(whole, tmp_path / "step1.pt")
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, tmp_path / "model.safetensors")
    for mapped in (
        weights.read_state_dict(tmp_path / "step1.pt", None),
        weights.read_weights(tmp_path / "model.safetensors"),
    ):
        read = weights.in_memory(mapped)
        assert read.keys() == whole.keys()
        for name, tensor in whole.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_an_error_does_not_keep_what_was_read_alive():
    class Large:
        pass

    gone = []

    def make(item):
        large = Large()
        gone.append(weakref.ref(large))
        raise ValueError

    gc.disable()
    try:
        with ahead([1], make, 1) as items:
            for _, take in items:
                with contextlib.suppress(ValueError):
                    take()
        assert gone[0]() is None
    finally:
        gc.enable()


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
