"""Evidence of files on this machine, and what a scan makes of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

import ontogeny
from ontogeny.dynamics.audit import examine, gather, gather_into, read_evidence
from ontogeny.dynamics.audit.fingerprint import project_weights
from ontogeny.dynamics.pocket import SHIPPED
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources import open_series
from ontogeny.errors import OntogenyError
from tests.checkpoint_folders import edit_weights, to_bin
from tests.scans import SMALL, STEPS


@pytest.fixture
def doubtful(series):
    """Step 16 is a copy of step 1, and step 128 says that it is step 120."""
    shutil.copy(series / "step1/model.safetensors", series / "step16/model.safetensors")
    (series / "step128/trainer_state.json").write_text(json.dumps({"global_step": 120}))
    return series


def test_files_are_known_by_hash_size_and_dtype(series) -> None:
    evidence = gather(open_series(str(series)))
    for step, entry in zip(STEPS, evidence.entries, strict=True):
        content = (series / f"step{step}/model.safetensors").read_bytes()
        assert (entry.name, entry.step, entry.problem) == (f"step{step}", step, "")
        assert (entry.digest, entry.size, entry.dtype) == (hashlib.sha256(content).hexdigest(), len(content), "F32")
    assert evidence.main is None and evidence.whole


def test_shards_are_told_apart_by_name_and_hash(series) -> None:
    for step, swapped in ((0, False), (1, True)):
        folder = series / f"step{step}"
        parts = list(load_file(folder / "model.safetensors").items())
        shards = {f"model-0000{place}-of-00002.safetensors": part for place, part in ((1, parts[:3]), (2, parts[3:]))}
        if swapped:
            shards = dict(zip(shards, reversed(shards.values()), strict=True))
        for name, part in shards.items():
            save_file({key: torch.zeros_like(value) for key, value in part}, folder / name)
        index = {"weight_map": {key: name for name, part in shards.items() for key, _ in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "model.safetensors").unlink()
    one, other, *_ = gather(open_series(str(series))).entries
    assert set(one.parts) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert sorted(one.parts.values()) == sorted(other.parts.values()) and one.parts != other.parts
    assert one.digest != other.digest


def test_only_what_is_selected_is_read(series) -> None:
    evidence = gather(open_series(str(series)), {"step1", "step16"})
    assert [entry.digest is None for entry in evidence.entries] == [True, False, False, True]
    assert "not selected" in evidence.entries[0].problem and not evidence.entries[0].failed


def test_what_cannot_be_read_is_stated(series) -> None:
    (series / "step1/model.safetensors").write_bytes(b"\xff" * 40)
    (series / "step16/trainer_state.json").write_text("[")
    to_bin(series / "step128")
    good, bad, odd, pickled = gather(open_series(str(series))).entries
    assert good.problem == "" and odd.trained is None and odd.digest
    assert bad.failed and "no header of safetensors" in bad.problem and bad.digest is None
    assert pickled.digest and pickled.dtype is None


def test_what_is_in_no_files_is_said() -> None:
    series = open_series("pocket")
    bare = replace(series, checkpoints=tuple(replace(one, listing=None) for one in series.checkpoints))
    assert {entry.problem for entry in gather(bare).entries} == {"its weights are in no files"}


def weighed(series: Series) -> dict[str, np.ndarray]:
    return {one.name: project_weights(one.load()) for one in series.checkpoints}


def test_no_checkpoint_of_pocket_is_flagged() -> None:
    series = open_series("pocket")
    found = examine(gather(series), weighed(series))
    assert (found.flags, found.findings) == ({}, ()) and len(found.measured) == 20


def test_a_pocket_that_serves_a_late_step_early_is_found_by_weights_alone(tmp_path) -> None:
    """Moved by a hair, so that neither files nor numbers are equal."""
    pocket = shutil.copytree(SHIPPED, tmp_path / "pocket")
    shutil.copy(pocket / "step6000/model.safetensors", pocket / "step256/model.safetensors")
    edit_weights(pocket / "step256", lambda weights: weights.update({k: v * 1.001 for k, v in weights.items()}))
    series = open_series(str(pocket))
    found = examine(gather(series), weighed(series))
    assert {name: list(flags) for name, flags in found.flags.items()} == {"step256": ["off trend"]}


def test_verdicts_lie_over_a_scan(doubtful, tmp_path) -> None:
    series, out = open_series(str(doubtful)), tmp_path / "scan"
    measured = ontogeny.scan(series, out, **SMALL)
    gather_into(out, series)
    opened = ontogeny.open_scan(out).dataset
    assert opened.verdict.values.tolist() == ["ok", "duplicate", "duplicate", "out of order"]
    assert opened.verdict_reason.values.tolist()[1:] == [
        "the same weights as step16",
        "the same weights as step1",
        "its trainer_state.json states step 120",
    ]
    xr.testing.assert_identical(
        opened.drop_vars(["verdict", "verdict_reason"]).load(),
        measured.dataset.drop_vars(["verdict", "verdict_reason"], errors="ignore").load(),
    )
    found = ontogeny.audit(out)
    assert found.verdict("step1") == "duplicate" and found.measured == {f"step{step}" for step in STEPS}


def test_opening_reads_no_more_than_the_projections(doubtful, tmp_path) -> None:
    series, out = open_series(str(doubtful)), tmp_path / "scan"
    ontogeny.scan(series, out, **SMALL)
    gather_into(out, series)
    opened = ontogeny.open_scan(out).dataset
    assert not opened["weight_projection"].variable._in_memory


def test_a_scan_without_evidence_is_unaudited(series, tmp_path) -> None:
    out = tmp_path / "scan"
    ontogeny.scan(str(series), out, **SMALL)
    (out / "audit.json").unlink(missing_ok=True)
    assert set(ontogeny.open_scan(out).dataset.verdict.values) == {"unaudited"}
    assert ontogeny.audit(out).verdict("step0") == "ok"  # by its weights


def test_evidence_of_what_was_measured_stays(series, tmp_path) -> None:
    source, out = open_series(str(series)), tmp_path / "scan"
    ontogeny.scan(source, out, steps="0,1", **SMALL)
    first = gather_into(out, source, {"step0", "step1"})
    edit_weights(series / "step1", lambda weights: weights.update({k: v * 2 for k, v in weights.items()}))
    second = gather_into(out, source, {"step1", "step16"})
    assert second == read_evidence(out)
    assert second.entries[:2] == first.entries[:2] and second.entries[2].digest and second.entries[3].problem


def test_evidence_that_cannot_be_read_is_refused_and_made_anew(series, tmp_path) -> None:
    source, out = open_series(str(series)), tmp_path / "scan"
    ontogeny.scan(source, out, **SMALL)
    (out / "audit.json").write_text("{")
    with pytest.raises(OntogenyError, match=r"audit.json cannot be read .*remove it"):
        ontogeny.open_scan(out)
    gather_into(out, source)
    assert set(ontogeny.open_scan(out).dataset.verdict.values) == {"ok"}


def test_the_projections_are_in_the_dataset(series) -> None:
    dataset = ontogeny.scan(str(series), **SMALL).dataset
    projections = dataset["weight_projection"]
    assert projections.dims == ("checkpoint", "projection") and projections.shape == (4, 64)
    assert projections.dtype == np.float64 and {"long_name", "units", "source"} <= set(projections.attrs)
    norm = sum(float((w.double() ** 2).sum()) for w in load_file(series / "step0/model.safetensors").values())
    assert np.sum(projections.values[0] ** 2) == pytest.approx(norm, rel=0.6)
    with pytest.raises(ontogeny.UsageError, match="got 'weight_projection'"):
        ontogeny.fit(dataset, "weight_projection")
