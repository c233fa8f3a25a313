"""Interrupts at bad moments: nothing half-written stays, and the process ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from zarr.storage import LocalStore

import ontogeny
from ontogeny.dynamics.progress import Progress
from tests.checkpoint_folders import contents, save_tiny, save_word_tokenizer
from tests.hub_server import Fault, Repository, serve
from tests.scans import SMALL


def test_an_interrupt_while_a_checkpoint_is_written_leaves_no_half_of_it(series, tmp_path, monkeypatch):
    """Zarr writes in a thread of its own, which goes on after an interrupt."""
    put, told = LocalStore.set, []

    async def slow(store, key, value, *more):
        if "step1." in str(store.root) and not told:
            told.append(key)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(0.3)
        await put(store, key, value, *more)

    monkeypatch.setattr(LocalStore, "set", slow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(0.5)  # in which a writer that was left behind would write on
    assert told and [one.name for one in (tmp_path / "scan" / "checkpoints").iterdir()] == ["step0"]


@pytest.mark.parametrize(("prefetch", "released_steps"), [(0, [0, 1]), (1, [0, 1, 16])])
def test_what_was_fetched_ahead_of_an_interrupt_is_released(series, prefetch, released_steps):
    released = []
    opened = ontogeny.open_series(str(series))
    steps = [replace(one, release=lambda step=one.step: released.append(step)) for one in opened.checkpoints]

    class Stop(Progress):
        def checkpoint(self, name):
            if name == "step1":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ontogeny.scan(opened.with_checkpoints(tuple(steps)), keep="none", prefetch=prefetch, progress=Stop(), **SMALL)
    assert released == released_steps


def test_a_second_signal_ends_the_process_at_once():
    program = """
import os, signal
from ontogeny.cli.errors import Terminated, heed_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
heed_signals()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except Terminated:
    os.kill(os.getpid(), signal.SIGINT)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_signal_that_is_ignored_stays_so():
    """As in a shell's background job, which Ctrl-C is not meant for."""
    program = """
import os, signal
from ontogeny.cli.errors import heed_signals
signal.signal(signal.SIGINT, signal.SIG_IGN)
heed_signals()
os.kill(os.getpid(), signal.SIGINT)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "still here\n"), done.stderr


FULL_DISK = """
import errno
import xarray as xr
def full(dataset, store, **options):
    raise OSError(errno.ENOSPC, "No space left on device")
xr.Dataset.to_zarr = full
"""


def test_a_scan_that_fails_does_not_wait_for_a_download_that_hangs(tmp_path):
    """The first checkpoint finds no room on the disk while the second one's weights do not come."""
    first = contents(save_word_tokenizer(save_tiny(tmp_path / "first")))
    second = contents(save_word_tokenizer(save_tiny(tmp_path / "second", seed=1)))
    with serve({"owner/tiny": Repository({"main": first, "step0": first, "step1": second})}) as hub:
        hub.faults.append(Fault(f"{hub.repositories['owner/tiny'].sha('step1')}/model", delay=120, times=20))
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        environment |= {"HF_HUB_DOWNLOAD_TIMEOUT": "110"}
        environment.pop("HF_HUB_OFFLINE", None)
        program = f"{FULL_DISK}\nfrom ontogeny.cli.main import main\nmain()"
        command = [sys.executable, "-c", program, "scan", "owner/tiny", "--out", str(tmp_path / "scan")]
        done = subprocess.run(
            [*command, "--corpus", "random", "--length", "20"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,  # less than the download hangs, and enough for a busy machine to import torch in
        )
    assert hub.faults[0].times < 20, "nothing was being downloaded"
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: cannot write to"), done.stderr
