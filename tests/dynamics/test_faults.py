"""Too little memory, a full disk, and signals: what was measured is kept, and a sentence says what happened."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

import ontogeny
from ontogeny.dynamics import measure
from ontogeny.dynamics.store import StoreError
from ontogeny.memory import is_out_of_memory
from tests.checkpoint_folders import contents, save_tiny, save_word_tokenizer
from tests.hub_server import Fault, Repository, serve
from tests.scans import STEPS, Count

EIGHT = {"sequences": 8, "length": 20}
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def short_of_memory(monkeypatch, error, most):
    """Let passes on more than `most` sequences fail."""
    run = measure.run_pass

    def run_pass(model, ids, **options):
        if len(ids) > most:
            raise error
        return run(model, ids, **options)

    monkeypatch.setattr(measure, "run_pass", run_pass)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(ALLOCATOR)], ids=repr
)
def test_where_memory_does_not_suffice_the_batch_is_halved_and_the_dataset_says_so(series, monkeypatch, error):
    plain = ontogeny.scan(str(series), **EIGHT)
    assert plain.dataset.batch_size.values.tolist() == [4096 // 20] * 4
    short_of_memory(monkeypatch, error, most=3)
    progress = Count()
    found = ontogeny.scan(str(series), batch_size=8, progress=progress, **EIGHT)
    assert found.dataset.batch_size.values.tolist() == [2] * 4 and found.failures == {}
    told = [note for note in progress.notes if "memory" in note]
    assert told == [
        f"memory of cpu does not suffice for {size} sequences a pass: going on with {size // 2}" for size in (8, 4)
    ]
    for name in plain.dataset.data_vars:
        np.testing.assert_allclose(found.dataset[name], plain.dataset[name], rtol=2e-5, atol=1e-7, err_msg=name)
    assert progress.seen == 4 * 8 * 20


def test_where_memory_does_not_suffice_for_one_sequence_the_checkpoint_fails(series, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), most=0)
    with pytest.raises(ontogeny.OntogenyError, match="step0: memory of cpu does not suffice for one sequence: use"):
        ontogeny.scan(str(series), tmp_path / "scan", **EIGHT)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        (
            "torch.nn.Module.to",
            torch.OutOfMemoryError("CUDA out of memory"),
            "step0: memory of cpu does not suffice for the weights of .*step0 in float32: use --dtype bfloat16",
        ),
        (
            "ontogeny.dynamics.loading.model.fill",
            RuntimeError(ALLOCATOR),
            r"step0: memory does not suffice to read .*step0 \(RuntimeError: .*\): use a smaller --dtype",
        ),
    ],
    ids=["device", "host"],
)
def test_where_memory_does_not_suffice_for_the_weights_the_checkpoint_fails(series, monkeypatch, place, error, words):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises(ontogeny.OntogenyError, match=words):
        ontogeny.scan(str(series), **EIGHT)


def test_other_errors_of_a_pass_are_not_taken_for_a_lack_of_memory(series, monkeypatch):
    short_of_memory(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), most=0)
    with pytest.raises(ontogeny.OntogenyError, match="step0: RuntimeError: mat1 and mat2"):
        ontogeny.scan(str(series), **EIGHT)


def test_torchs_own_words_for_a_lack_of_memory_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)


def fill_the_disk_at(monkeypatch, number):
    """Let the writing of the dataset of that number, counted from 1, run out of space when it has begun."""
    written, to_zarr = [], xr.Dataset.to_zarr

    def run_out(dataset, store, **options):
        written.append(store)
        to_zarr(dataset, store, **options)
        if len(written) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(xr.Dataset, "to_zarr", run_out)


def test_a_full_disk_stops_the_scan_and_keeps_what_is_there(series, tmp_path, monkeypatch):
    progress = Count()
    with monkeypatch.context() as patch:
        fill_the_disk_at(patch, 3)
        with pytest.raises(StoreError, match=r"scan \(No space left on device\): make room there, and the same"):
            ontogeny.scan(str(series), tmp_path / "scan", progress=progress, **EIGHT)
    assert progress.checkpoints == ["step0", "step1", "step16"]
    assert sorted(one.name for one in (tmp_path / "scan" / "checkpoints").iterdir()) == ["step0", "step1"]
    assert not (tmp_path / "scan" / "failures.json").exists()
    resumed = ontogeny.scan(str(series), tmp_path / "scan", **EIGHT)
    assert resumed.dataset.identical(ontogeny.scan(str(series), tmp_path / "other", **EIGHT).dataset)


def test_a_cache_that_finds_no_room_is_done_without(series, tmp_path, monkeypatch):
    fill_the_disk_at(monkeypatch, len(STEPS) + 1)
    progress = Count()
    scan = ontogeny.scan(str(series), tmp_path / "scan", progress=progress, **EIGHT)
    assert scan.dataset.sizes["checkpoint"] == len(STEPS)
    assert "all measurements are kept" in progress.notes[-1]
    assert not list((tmp_path / "scan").glob("*unfinished*")) and not list((tmp_path / "scan").glob("cache-*"))


COMMAND = [sys.executable, "-c", "from ontogeny.cli.main import main; main()"]


def test_files_that_cannot_grow_end_a_scan_with_one_sentence(series, tmp_path):
    """A limit on the size of files is the nearest to a full disk that a process can set itself."""
    arguments = ["scan", str(series), "--out", str(tmp_path / "scan"), "--sequences", "400", "--length", "64"]
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: cannot write to {tmp_path / 'scan'} (File too large): make room there" in done.stderr
    assert list((tmp_path / "scan" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "word", "request_of"),
    [
        (signal.SIGINT, "interrupted", "{step0}/model.safetensors"),
        (signal.SIGTERM, "terminated", "{step0}/model.safetensors"),
        (signal.SIGTERM, "terminated", "/tree/{step0}"),
    ],
    ids=["SIGINT-download", "SIGTERM-download", "SIGTERM-listing"],
)
def test_signals_end_a_request_that_hangs(tmp_path, number, word, request_of):
    folder = save_word_tokenizer(save_tiny(tmp_path / "model"))
    files = contents(folder)
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    with serve({"owner/tiny": Repository({"main": files, "step0": files, "step1": files})}) as hub:
        hanging = request_of.format(step0=hub.repositories["owner/tiny"].sha("step0"))
        hub.faults.append(Fault(hanging, delay=120, times=10))
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [COMMAND[0], "-c", heed + COMMAND[2], "scan", "owner/tiny", "--out", str(tmp_path / "scan")]
        command += ["--corpus", "random", "--length", "20"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while not any(hanging in request for request in hub.requests):
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.02)
            process.send_signal(number)
            said = process.communicate(timeout=20)[0].decode()
        assert process.returncode == 130, said
    assert f"{word}: checkpoints that were measured are kept" in said
    assert "Traceback" not in said and "Exception" not in said
    assert not list((tmp_path / "scan").rglob("*unfinished*"))
