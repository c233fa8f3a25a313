"""The scan from a folder of checkpoints to the dataset: contract, resumption, refusals, and one bad checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from filelock import FileLock

import ontogeny
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.store import measured_names
from ontogeny.errors import OntogenyError, UsageError
from tests.checkpoint_folders import edit_config, edit_weights, save_tiny
from tests.models import tiny, tiny_falcon

STEPS = (0, 1, 16, 128)
SMALL = {"sequences": 3, "length": 20}
MLP = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "tiny"
    for step in STEPS:
        tiny("gpt_neox", seed=step).save_pretrained(folder / f"step{step}")
    return folder


@pytest.fixture
def series(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny")


def test_the_dataset_keeps_the_contract(series):
    dataset = ontogeny.scan(str(series), **SMALL).dataset
    assert dataset.step.values.tolist() == list(STEPS)
    assert dataset.sel(step=16).checkpoint.item() == "step16"
    assert dict(dataset.sizes) == {
        "checkpoint": 4, "layer": 3, "depth": 4, "head": 4, "position": 16, "sequence": 3, "rank": 3, "epsilon": 5,
    }  # fmt: skip
    assert {"step", "tokens", "revision", "verdict"} <= set(dataset.coords)
    assert set(dataset.verdict.values) == {"unaudited"}
    for name in ("step", "tokens", "layer", "depth", "head", "position", "sequence", "rank", "epsilon"):
        assert set(dataset[name].attrs) == {"long_name", "units"}, name
    for name in (
        "corpus_fingerprint", "length", "bos", "dtype", "quantisation", "device", "ontogeny_version", "torch_version",
        "transformers_version", "massive_threshold", "support_rows", "attention", "series", "arch",
    ):  # fmt: skip
        assert name in dataset.attrs
    assert json.loads(dataset.attrs["arch"])["heads"] == 4
    for name, variable in dataset.data_vars.items():
        assert {"long_name", "units", "source"} <= set(variable.attrs), name
        assert variable.notnull().all(), name


def test_each_checkpoint_is_measured_with_its_own_weights(series):
    dataset = ontogeny.scan(str(series), **SMALL).dataset
    alone = ontogeny.scan(str(series / "step16"), **SMALL).dataset
    for name in dataset.data_vars:
        np.testing.assert_array_equal(dataset.sel(step=16)[name], alone.isel(checkpoint=0)[name], err_msg=name)
    entropies = dataset.attention_entropy.mean(("layer", "head")).values
    assert len(set(entropies.round(6))) == 4


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


def test_a_checkpoint_of_another_shape_fails_alone(series, tmp_path):
    shutil.rmtree(series / "step16")
    save_tiny(series / "step16", num_hidden_layers=2)
    words = (
        r"its measurements \(.*2 layer.*\) are not of the shape of step0's \(.*3 layer.*\): expected checkpoints of one"
    )
    for out in (tmp_path / "scan", None):
        scan = ontogeny.scan(str(series), out, **SMALL)
        assert scan.dataset.step.values.tolist() == [0, 1, 128]
        assert re.search(words, scan.failures["step16"])
    assert ontogeny.open_scan(tmp_path / "scan").dataset.sizes["checkpoint"] == 3


def test_weights_that_changed_since_are_not_passed_off_as_measured(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    save_tiny(series / "step1", seed=99)
    with pytest.raises(OntogenyError, match="files of step1 have changed since it was measured: remove"):
        ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    shutil.rmtree(tmp_path / "scan" / "checkpoints" / "step1")
    again = ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset
    alone = ontogeny.scan(str(series / "step1"), **SMALL).dataset
    np.testing.assert_array_equal(again.sel(step=1).sink_score, alone.isel(checkpoint=0).sink_score)
    np.testing.assert_array_equal(ontogeny.open_scan(tmp_path / "scan").dataset.sink_score, again.sink_score)


def test_only_weights_and_config_count_as_changed(series, tmp_path):
    ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    (series / "step1" / "notes.txt").write_text("looked at it")
    assert ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset.sizes["checkpoint"] == 4


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


def test_failures_of_other_steps_are_not_this_runs(series, tmp_path):
    garbage(series / "step16")
    assert list(ontogeny.scan(str(series), tmp_path / "scan", **SMALL).failures) == ["step16"]
    assert ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL).failures == {}
    assert list(ontogeny.open_scan(tmp_path / "scan").failures) == ["step16"]


def test_versions_that_differ_between_checkpoints_are_all_named(series, tmp_path, monkeypatch):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    monkeypatch.setattr("ontogeny.dynamics.scan.__version__", "9.9")
    dataset = ontogeny.scan(str(series), tmp_path / "scan", **SMALL).dataset
    assert dataset.attrs["ontogeny_version"] == f"{ontogeny.__version__}, 9.9"


def test_other_definitions_do_not_mix(series, tmp_path, monkeypatch):
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", **SMALL)
    monkeypatch.setattr("ontogeny.dynamics.scan.DEFINITIONS", 2)
    with pytest.raises(OntogenyError, match="definitions 1, not 2"):
        ontogeny.scan(str(series), tmp_path / "scan", **SMALL)


def test_the_same_request_in_other_words_goes_on(series, tmp_path):
    ids = tmp_path / "corpus.jsonl"
    ids.write_text('{"ids": [5, 6, 7, 8, 9, 5, 6, 7, 8, 9]}\n' * 3)
    request = {"sequences": 3, "length": 10}
    ontogeny.scan(str(series), tmp_path / "scan", steps="0", corpus=str(ids), **request)
    moved = ids.rename(tmp_path / "moved.jsonl")
    probes = ("massive", "sinks", "waivers", "sinks")
    again = ontogeny.scan(str(series), tmp_path / "scan", steps="1", corpus=str(moved), probes=probes, **request)
    assert again.dataset.step.values.tolist() == [0, 1]


def test_what_is_assumed_is_noted(series, tmp_path):
    progress = Count()
    ontogeny.scan(str(series), steps="0", progress=progress, **SMALL)
    assert progress.notes == ["tiny has no tokenizer: it is measured on random token ids"]
    tiny_falcon().save_pretrained(tmp_path / "falcon" / "step5")
    ontogeny.scan(str(tmp_path / "falcon"), corpus="random", progress=progress, **SMALL)
    assert progress.notes[1].startswith("step5: attention is unavailable: FalconModel")


def test_a_scan_says_what_it_is(series):
    scan = ontogeny.scan(str(series), **SMALL)
    assert repr(scan) == "<Scan of tiny: 4 checkpoints, 18 variables, 0 failed, at None>"


class Count(Progress):
    def __init__(self):
        self.checkpoints, self.notes, self.blocks, self.seen = [], [], [], 0

    def checkpoint(self, name):
        self.checkpoints.append(name)

    def note(self, text):
        self.notes.append(text)

    def block(self, index):
        self.blocks.append(index)

    def tokens(self, count):
        self.seen += count


def test_a_scan_is_extended_without_measuring_again(series, tmp_path):
    first, second = Count(), Count()
    ontogeny.scan(str(series), tmp_path / "scan", steps="0,16", progress=first, **SMALL)
    scan = ontogeny.scan(str(series), tmp_path / "scan", progress=second, **SMALL)
    assert first.checkpoints == ["step0", "step16"] and second.checkpoints == ["step1", "step128"]
    assert second.blocks == [0, 1, 2, 0, 1, 2] and second.seen == 2 * 3 * 20
    assert scan.dataset.step.values.tolist() == list(STEPS)


def test_steps_that_are_absent_are_said(series):
    progress = Count()
    ontogeny.scan(str(series), steps="0,5,16", corpus="random", progress=progress, **SMALL)
    assert progress.notes == ["not in the series, left out: steps 5"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sequences": 4}, "sequences 3, not 4"),
        ({"length": 24}, "length 20, not 24"),
        ({"dtype": "bfloat16"}, "dtype 'float32', not 'bfloat16'"),
        ({"probes": ("massive",)}, r"probes \['sinks', 'waivers', 'massive'\], not \['massive'\]"),
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


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def garbage(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors here")


def with_nan(folder):
    edit_weights(folder, lambda weights: weights[MLP][0].fill_(torch.nan))


def misshapen(folder):
    edit_config(folder, intermediate_size=64)


def without_one(folder):
    edit_weights(folder, lambda weights: weights.pop(MLP))


def overflowing(folder):
    edit_weights(folder, lambda weights: weights[MLP].mul_(1e38))


@pytest.mark.parametrize(
    "corrupt",
    [truncated, garbage, with_nan, misshapen, without_one, overflowing],
)
def test_one_bad_checkpoint_stops_no_other_and_is_tried_again(series, tmp_path, corrupt):
    corrupt(series / "step16")
    scan = ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    assert scan.dataset.step.values.tolist() == [0, 1, 128]
    assert list(scan.failures) == ["step16"]
    assert "\n" not in scan.failures["step16"].strip() and len(scan.failures["step16"]) > 40
    assert ontogeny.open_scan(tmp_path / "scan").failures == scan.failures
    shutil.rmtree(series / "step16")
    tiny("gpt_neox", seed=16).save_pretrained(series / "step16")
    mended = ontogeny.scan(str(series), tmp_path / "scan", **SMALL)
    assert mended.failures == {} and mended.dataset.step.values.tolist() == list(STEPS)


def test_where_nothing_can_be_measured_that_is_an_error(series, tmp_path):
    for step in STEPS:
        garbage(series / f"step{step}")
    with pytest.raises(OntogenyError, match="not one of 4 checkpoints could be measured:\n  step0: "):
        ontogeny.scan(str(series), tmp_path / "scan", **SMALL)


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


def test_a_model_without_the_interface_is_measured_on_its_residual_stream(tmp_path):
    tiny_falcon().save_pretrained(tmp_path / "falcon" / "step5")
    dataset = ontogeny.scan(str(tmp_path / "falcon"), **SMALL).dataset
    assert dataset.attrs["attention"].startswith("unavailable: FalconModel")
    assert "massive_ratio" in dataset and "sink_rate" not in dataset


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": "7"}, "match no checkpoint"),
        ({"steps": "one"}, "cannot be read"),
        ({"probes": ("sink",)}, "unknown probe sink"),
        ({"positions": 0}, "at least one position"),
        ({"batch_size": 0}, "at least one sequence in a batch"),
        ({"batch_size": -1}, "at least one sequence in a batch"),
        ({"dtype": "float8"}, "float8"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_requests_that_make_no_sense_are_wrong_usage(series, change, words):
    with pytest.raises(UsageError, match=words):
        ontogeny.scan(str(series), **{**SMALL, **change})


def test_opening_what_is_no_scan(tmp_path):
    with pytest.raises(OntogenyError, match="holds no scan: expected a folder that `ontogeny scan SOURCE --out"):
        ontogeny.open_scan(tmp_path)


def test_more_tokens_than_positions_are_refused_before_anything_is_measured(tmp_path):
    save_tiny(tmp_path / "gpt2" / "step0", "gpt2", n_positions=32)
    with pytest.raises(UsageError, match=r"gpt2 has 32 positions, sequences of 33 tokens .* use --length 32"):
        ontogeny.scan(str(tmp_path / "gpt2"), tmp_path / "scan", sequences=2, length=33)
    assert not (tmp_path / "scan").exists()
    assert ontogeny.scan(str(tmp_path / "gpt2"), sequences=2, length=32).dataset.attrs["length"] == 32


def test_positions_end_with_the_sequence(series):
    dataset = ontogeny.scan(str(series), positions=100, **SMALL).dataset
    assert dataset.attrs["positions"] == dataset.sizes["position"] == 20
