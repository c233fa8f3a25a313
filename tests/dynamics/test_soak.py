"""Scans that are killed, and scans of many checkpoints: the same numbers to the bit, and memory that does not grow."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ontogeny
from ontogeny.dynamics.opening import read_checkpoints
from tests.checkpoint_folders import save_tiny

CHECKPOINTS = 150
SETTLED = 10
GROWTH = 1.05

SCAN = [sys.executable, "-c", "from ontogeny.cli.main import main; main()", "scan"]

MEMORY = """
import json, os, sys
import ontogeny
from ontogeny.dynamics.progress import Progress

class Resident(Progress):
    pages = []
    def finished(self, name, failure):
        assert failure is None, failure
        with open("/proc/self/statm") as file:
            self.pages.append(int(file.read().split()[1]))

source, out, prefetch = sys.argv[1:]
ontogeny.scan(source, out, sequences=4, length=32, prefetch=int(prefetch), progress=Resident())
print(json.dumps(Resident.pages))
"""


def start(source, out):
    command = [*SCAN, str(source), "--out", str(out), "--sequences", "4", "--length", "32"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(source, out):
    """Run a scan to its end and return the seconds it took."""
    begun = time.monotonic()
    with start(source, out) as process:
        said = process.stderr.read()
    assert process.returncode == 0, said
    return time.monotonic() - begun


def kill_in_time(source, out, seconds):
    with start(source, out) as process:
        time.sleep(seconds)
        process.kill()


def kill_while_writing(source, out, delay):
    """Kill it `delay` seconds after something half-written has appeared; True if that came about."""
    with start(source, out) as process:
        while process.poll() is None and not list(Path(out).rglob("*.unfinished")):
            pass
        time.sleep(delay)
        process.kill()
    return process.returncode < 0


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def soak(source, folder, kills, seed):
    """Kill a scan `kills` times, in turn at any moment and while it writes; it must end as if nothing had been."""
    whole, killed, chance = folder / "whole", folder / "killed", random.Random(seed)
    seconds = finish(source, whole)
    writing = 0
    for number in range(kills):
        if number % 2:
            kill_in_time(source, killed, chance.uniform(0, seconds))
        else:
            writing += kill_while_writing(source, killed, chance.uniform(0, 0.02))
    assert writing > 0
    finish(source, killed)
    assert files(killed / "checkpoints") == files(whole / "checkpoints")
    expected = ontogeny.open_scan(whole).dataset
    assert ontogeny.open_scan(killed).dataset.identical(expected)
    assert read_checkpoints(killed).identical(read_checkpoints(whole))
    assert len(list(killed.glob("cache-*"))) == 1 and not list(killed.rglob("*.unfinished"))


def test_a_scan_that_was_killed_ends_as_one_that_was_not(series, tmp_path):
    soak(series, tmp_path, kills=2, seed=0)


@pytest.mark.soak
def test_a_scan_killed_twenty_times_ends_as_one_that_was_not(tmp_path):
    source = tmp_path / "tiny"
    for step in range(40):
        save_tiny(source / f"step{step}", seed=step)
    soak(source, tmp_path, kills=20, seed=1)


@pytest.mark.soak
def test_pocket_killed_twenty_times_ends_as_one_that_was_not(tmp_path):
    soak("pocket", tmp_path, kills=20, seed=2)


@pytest.mark.parametrize("prefetch", [1, pytest.param(0, marks=pytest.mark.soak)])
def test_memory_does_not_grow_over_a_series(tmp_path, prefetch):
    """With a model of 4 MB a leak of one checkpoint in eight would show."""
    model = save_tiny(tmp_path / "model", hidden_size=256, intermediate_size=512)
    (tmp_path / "series").mkdir()
    for step in range(CHECKPOINTS):
        (tmp_path / "series" / f"step{step}").symlink_to(model)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "series"), str(tmp_path / "scan"), str(prefetch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pages = json.loads(done.stdout)
    assert len(pages) == CHECKPOINTS
    assert max(pages[SETTLED:]) < GROWTH * pages[SETTLED - 1], pages
