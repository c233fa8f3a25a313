"""The scan from a folder of checkpoints to the dataset: the contract, and requests that make no sense."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ontogeny
from ontogeny.errors import OntogenyError, UsageError
from tests.checkpoint_folders import save_tiny
from tests.models import tiny_falcon
from tests.scans import SMALL, STEPS, Count


def test_the_dataset_keeps_the_contract(series):
    dataset = ontogeny.scan(str(series), **SMALL).dataset
    assert dataset.step.values.tolist() == list(STEPS)
    assert dataset.sel(step=16).checkpoint.item() == "step16"
    assert dict(dataset.sizes) == {
        "checkpoint": 4, "layer": 3, "depth": 4, "head": 4, "position": 16, "sequence": 3, "rank": 3, "epsilon": 6,
        "projection": 64,
    }  # fmt: skip
    assert {"step", "tokens", "revision", "verdict"} <= set(dataset.coords)
    assert set(dataset.verdict.values) == {"ok"}
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


def test_what_is_assumed_is_noted(series, tmp_path):
    progress = Count()
    ontogeny.scan(str(series), steps="0", progress=progress, **SMALL)
    assert progress.notes == ["tiny has no tokenizer: it is measured on random token ids"]
    tiny_falcon().save_pretrained(tmp_path / "falcon" / "step5")
    ontogeny.scan(str(tmp_path / "falcon"), corpus="random", progress=progress, **SMALL)
    assert progress.notes[1].startswith("step5: attention is unavailable: FalconModel")
    ontogeny.scan(str(series), steps="0", progress=progress, probes=["massive", "waiver_kinds"], sequences=2, length=12)
    assert progress.notes[-1].startswith("step0: waiver_kinds is unavailable: expected sequences of at least 17 tokens")


def test_a_scan_says_what_it_is(series):
    scan = ontogeny.scan(str(series), **SMALL)
    assert repr(scan) == "<Scan of tiny: 4 checkpoints, 36 variables, 0 failed, at None>"


def test_steps_that_are_absent_are_said(series):
    progress = Count()
    ontogeny.scan(str(series), steps="0,5,16", corpus="random", progress=progress, **SMALL)
    assert progress.notes == ["not in the series, left out: steps 5"]


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


def test_more_tokens_than_positions_are_refused_before_anything_is_measured(tmp_path):
    save_tiny(tmp_path / "gpt2" / "step0", "gpt2", n_positions=32)
    with pytest.raises(UsageError, match=r"gpt2 has 32 positions, sequences of 33 tokens .* use --length 32"):
        ontogeny.scan(str(tmp_path / "gpt2"), tmp_path / "scan", sequences=2, length=33)
    assert not (tmp_path / "scan").exists()
    assert ontogeny.scan(str(tmp_path / "gpt2"), sequences=2, length=32).dataset.attrs["length"] == 32


def test_positions_end_with_the_sequence(series):
    dataset = ontogeny.scan(str(series), positions=100, **SMALL).dataset
    assert dataset.attrs["positions"] == dataset.sizes["position"] == 20


def test_the_implementation_of_attention_can_be_chosen(tmp_path):
    series = ontogeny.open_series("pocket")
    arguments = {"steps": "0,128", "sequences": 3, "length": 20, "probes": ["sinks"]}
    one, other = (ontogeny.scan(series, **arguments, impl=impl).dataset for impl in ("auto", "reference"))
    assert other.attrs["impl"] == "reference"
    np.testing.assert_allclose(one.attention_entropy, other.attention_entropy, rtol=1e-5)
    with pytest.raises(UsageError, match="unknown implementation 'fast': expected one of auto, reference"):
        ontogeny.scan(series, **arguments, impl="fast")
    with pytest.raises(OntogenyError, match="impl: triton has no kernel for this: expected float32"):
        ontogeny.scan(series, **arguments, impl="triton", dtype="float64")
