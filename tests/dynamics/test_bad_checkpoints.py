"""One bad checkpoint stops no other, and no stale one is passed off as measured."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError
from tests.checkpoint_folders import edit_config, edit_weights, save_tiny
from tests.models import tiny
from tests.scans import SMALL, STEPS

MLP = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"


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
    with pytest.raises(OntogenyError, match=r"not one of 4 .* measured:\n  step0: (.*\n){3}  and 1 more$"):
        ontogeny.scan(str(series), tmp_path / "scan", **SMALL)


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


def test_failures_of_other_steps_are_not_this_runs(series, tmp_path):
    garbage(series / "step16")
    assert list(ontogeny.scan(str(series), tmp_path / "scan", **SMALL).failures) == ["step16"]
    assert ontogeny.scan(str(series), tmp_path / "scan", steps="0,1", **SMALL).failures == {}
    assert list(ontogeny.open_scan(tmp_path / "scan").failures) == ["step16"]
