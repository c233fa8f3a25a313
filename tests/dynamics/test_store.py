"""A scan on disk: gone on with, refused, opened, and never another one than it was."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from filelock import FileLock

import ontogeny
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.store import measured_names
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes.registry import DEFAULT, DEFINITIONS
from tests.scans import SMALL, STEPS, Count


def test_a_stored_scan_opens_as_it_was_from_the_cache_and_without_it(series, tmp_path):
    made = ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset.load()
    lazy = ontogeny.open_scan(tmp_path / "scan").dataset
    assert not any(variable.variable._in_memory for variable in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.load(), made)
    shutil.rmtree(next((tmp_path / "scan").glob("cache-*.zarr")))
    xr.testing.assert_identical(ontogeny.open_scan(tmp_path / "scan").dataset, made)
    assert made.to_dataframe().shape[0] > 0


def test_a_missing_cache_is_written_again(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    (cache,) = (tmp_path / "scan").glob("cache-*.zarr")
    shutil.rmtree(cache)
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    assert cache.is_dir()


def test_a_scan_that_grows_does_not_change_one_that_is_open(series, tmp_path):
    """Zarr reads a chunk that is gone as zeros or NaN, and one that was rewritten as another checkpoint's."""
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,128", **SMALL)
    before = ontogeny.open_scan(tmp_path / "scan").dataset
    loaded = ontogeny.open_scan(tmp_path / "scan").dataset.sel(step=128).load()
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    with pytest.raises(OntogenyError, match="the scan has grown since it was opened: open it again"):
        before.sel(step=128).load()
    after = ontogeny.open_scan(tmp_path / "scan").dataset
    assert after.step.values.tolist() == list(STEPS)
    np.testing.assert_array_equal(after.sel(step=128).sink_score, loaded.sink_score)


def test_measurements_that_were_removed_leave_no_cache_behind_to_be_believed(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    shutil.rmtree(tmp_path / "scan" / "checkpoints")
    dataset = ontogeny.scan(str(series), tmp_path / "scan", sequences=3, length=24).dataset
    assert dataset.attrs["length"] == 24 and len(list((tmp_path / "scan").glob("cache-*"))) == 1


def test_a_cache_that_is_half_removed_is_not_read(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    (cache,) = (tmp_path / "scan").glob("cache-*.zarr")
    held = ontogeny.open_scan(tmp_path / "scan").dataset
    (cache / "zarr.json").unlink()
    shutil.rmtree(cache / "sink_score")
    with pytest.raises(OntogenyError, match="open it again"):
        held.sink_score.load()
    assert ontogeny.open_scan(tmp_path / "scan").dataset.sink_score.notnull().all()


def test_a_cache_that_a_killed_process_left_is_removed(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL)
    (cache,) = (tmp_path / "scan").glob("cache-*.zarr")
    (tmp_path / "scan" / "cache-0123456789abcdef.zarr").mkdir()
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL)
    assert list((tmp_path / "scan").glob("cache-*")) == [cache]


def test_what_is_measured_has_not_failed(series, tmp_path):
    """A process killed after it stored a checkpoint leaves the note that it failed before."""
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL)
    (tmp_path / "scan" / "failures.json").write_text('{"step0": "the network was down", "step16": "it still is"}')
    assert ontogeny.open_scan(tmp_path / "scan").failures == {"step16": "it still is"}
    assert ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL).failures == {}


def test_measurements_that_hold_other_things_do_not_mix(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    shutil.rmtree(tmp_path / "scan" / "checkpoints" / "step0" / "batch_size")
    found = ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL)
    assert found.failures["step1"].startswith(
        "its measurements are not those of step0: only one has batch_size; expected"
    )


def test_stray_files_are_no_checkpoints(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL)
    (tmp_path / "scan" / "checkpoints" / ".DS_Store").write_text("")
    (tmp_path / "scan" / ".DS_Store").write_text("")
    assert ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset.sizes["checkpoint"] == 4


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 1}', '{"format": 2, "settings": {}}'])
def test_a_damaged_scan_is_said(series, tmp_path, content):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    (tmp_path / "scan" / "scan.json").write_text(content)
    with pytest.raises(OntogenyError, match=r"scan\.json|format"):
        ontogeny.open_scan(tmp_path / "scan")


def test_a_damaged_list_of_failures_is_said(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    (tmp_path / "scan" / "failures.json").write_text("{")
    with pytest.raises(OntogenyError, match=r"failures\.json cannot be read .* remove it"):
        ontogeny.open_scan(tmp_path / "scan")


def test_versions_that_differ_between_checkpoints_are_all_named(series, tmp_path, monkeypatch):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    monkeypatch.setattr("ontogeny.dynamics.measurement.__version__", "9.9")
    dataset = ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset
    assert dataset.attrs["ontogeny_version"] == f"{ontogeny.__version__}, 9.9"


def test_other_definitions_do_not_mix(series, tmp_path, monkeypatch):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    monkeypatch.setattr("ontogeny.dynamics.request.DEFINITIONS", DEFINITIONS + 1)
    with pytest.raises(OntogenyError, match=f"definitions {DEFINITIONS}, not {DEFINITIONS + 1}"):
        ontogeny.scan(str(series), tmp_path / "scan", **SMALL)


def test_the_same_request_in_other_words_goes_on(series, tmp_path):
    ids = tmp_path / "corpus.jsonl"
    ids.write_text('{"ids": [5, 6, 7, 8, 9, 5, 6, 7, 8, 9]}\n' * 3)
    request = {"sequences": 3, "length": 10}
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", corpus=str(ids), **request)
    moved = ids.rename(tmp_path / "moved.jsonl")
    probes = ("massive", *DEFAULT)
    again = ontogeny.scan(str(series), tmp_path / "scan", steps="1", corpus=str(moved), probes=probes, **request)
    assert again.dataset.step.values.tolist() == [0, 1]


def test_a_scan_is_extended_without_measuring_again(series, tmp_path):
    first, second = Count(), Count()
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,16", progress=first, **SMALL)
    scan = ontogeny.scan(str(series), tmp_path / "scan", progress=second, **SMALL)
    assert first.checkpoints == ["step0", "step16"] and second.checkpoints == ["step1", "step128"]
    assert second.blocks == [0, 1, 2, 0, 1, 2] and second.seen == 2 * 3 * 20
    assert scan.dataset.step.values.tolist() == list(STEPS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sequences": 4}, "sequences 3, not 4"),
        ({"length": 24}, "length 20, not 24"),
        ({"dtype": "bfloat16"}, "dtype 'float32', not 'bfloat16'"),
        ({"probes": ("massive",)}, r"probes \['sinks', 'secondary', 'waivers', 'massive'\], not \['massive'\]"),
        ({"positions": None}, "positions 16, not None"),
    ],
)
def test_other_settings_do_not_mix(series, tmp_path, change, words):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    with pytest.raises(OntogenyError, match=words):
        ontogeny.scan(str(series), tmp_path / "scan", **{**SMALL, **change})
    assert measured_names(tmp_path / "scan") == {"step0"}


def test_settings_that_measured_nothing_bind_nobody(series, tmp_path):
    with pytest.raises(UsageError):
        ontogeny.scan(str(series), tmp_path / "scan", dtype="float8", **SMALL)
    assert ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset.sizes["checkpoint"] == 4


def test_another_series_does_not_mix(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    other = shutil.copytree(series, tmp_path / "other")
    with pytest.raises(OntogenyError, match="holds a scan with other settings"):
        ontogeny.scan(str(other), tmp_path / "scan", **SMALL)


def test_the_batch_size_may_change(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", batch_size=1, **SMALL)
    assert ontogeny.scan(str(series), tmp_path / "scan", batch_size=2, **SMALL).dataset.sizes["checkpoint"] == 4


def test_a_folder_with_other_files_is_refused(series, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OntogenyError, match=r"holds files that are no scan \(notes.txt, tiny\)"):
        ontogeny.scan(str(series), tmp_path, **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "tiny"]


def test_an_output_that_cannot_be_made_is_refused(series, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OntogenyError, match=r"cannot write to .* choose another --out"):
        ontogeny.scan(str(series), tmp_path / "file" / "scan", **SMALL)


def test_a_folder_in_use_is_refused(series, tmp_path):
    (tmp_path / "scan").mkdir()
    with FileLock(tmp_path / "scan" / "lock"), pytest.raises(OntogenyError, match="another process is scanning into"):
        ontogeny.scan(str(series), tmp_path / "scan", **SMALL)


def test_a_scan_that_was_interrupted_keeps_what_it_measured(series, tmp_path):
    class Stop(Progress):
        def checkpoint(self, name):
            if name == "step16":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ontogeny.scan(str(series), tmp_path / "scan", progress=Stop(), **SMALL)
    assert ontogeny.open_scan(tmp_path / "scan").dataset.step.values.tolist() == [0, 1]


def test_a_scan_that_was_killed_goes_on_where_it_was(series, tmp_path):
    """SIGKILL at the start of the third checkpoint, with half a checkpoint left behind."""
    program = f"""
import os, signal, ontogeny
from ontogeny.dynamics.progress import Progress
class Die(Progress):
    def checkpoint(self, name):
        if name == "step16":
            os.kill(os.getpid(), signal.SIGKILL)
ontogeny.scan({str(series)!r}, {str(tmp_path / "scan")!r}, sequences=3, length=20, progress=Die())
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / "scan" / "checkpoints" / "step16.unfinished").mkdir()
    progress = Count()
    scan = ontogeny.scan(str(series), tmp_path / "scan", progress=progress, **SMALL)
    assert progress.checkpoints == ["step16", "step128"]
    assert scan.dataset.step.values.tolist() == list(STEPS)
    assert measured_names(tmp_path / "scan") == {f"step{step}" for step in STEPS}


def test_opening_what_is_no_scan(tmp_path):
    with pytest.raises(OntogenyError, match="holds no scan: expected a folder that `ontogeny scan SOURCE --out"):
        ontogeny.open_scan(tmp_path)
