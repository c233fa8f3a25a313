"""`ontogeny audit`: its table, its JSON, its exit codes; and what a fit says of the flagged."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from ontogeny.cli.main import app
from ontogeny.dynamics.audit import gather_into
from ontogeny.dynamics.sources import open_series
from tests.checkpoint_folders import save_tiny

STEPS = range(32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "tiny[b]"
    for step in range(5):
        save_tiny(folder / f"step{step}", seed=step, num_hidden_layers=1)
    return folder


@pytest.fixture
def doubtful(made, tmp_path):
    series = shutil.copytree(made, tmp_path / made.name)
    shutil.copy(series / "step4/model.safetensors", series / "step1/model.safetensors")
    return series


def run(*arguments, columns=80):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": str(columns)})


def test_nothing_flagged_is_exit_code_zero(made) -> None:
    result = run("audit", made)
    assert result.exit_code == 0
    assert "tiny[b]" in result.stdout.replace("\n", "")
    assert result.stdout.count(" ok ") == 5 and "flagged" not in result.stdout
    assert "not checked: the weights themselves; scan the series" in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_flagged_ones_are_named_with_the_reason(doubtful, columns) -> None:
    result = run("audit", doubtful, columns=columns)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    [one] = [line for line in lines if line.strip().startswith("step1 ")]
    assert one.split()[:1] + one.split()[4:5] == ["step1", "duplicate"] and "the same weights as step4" in one
    assert "2 of 5 flagged: a fit leaves them out" in result.stdout
    assert max(len(line) for line in lines[3:9]) <= columns


def test_a_long_series_shows_the_flagged_and_counts_the_rest(made, tmp_path) -> None:
    series = tmp_path / "long"
    for step in STEPS:
        shutil.copytree(made / "step0", series / f"step{step}")
        (series / f"step{step}/model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}" + bytes([step]))
    (series / "step30/model.safetensors").write_bytes((series / "step9/model.safetensors").read_bytes())
    (series / "step20/model.safetensors").write_bytes(b"no")
    result = run("audit", series)
    assert result.exit_code == 3
    body = [line.split() for line in result.stdout.splitlines() if line.strip()[:4] in ("step", "29 o")]
    assert [line[0] for line in body] == ["step9", "step20", "step30", "29"]
    assert body[-1] == ["29", "others", "ok"]
    assert "not checked: the files of step20: not listed: " in result.stdout


def test_what_is_not_listed_alone_is_exit_code_three(made, tmp_path) -> None:
    series = shutil.copytree(made, tmp_path / "tiny")
    (series / "step2/model.safetensors").write_bytes(b"no")
    result = run("audit", series)
    assert result.exit_code == 3 and "flagged" not in result.stdout


def test_json(doubtful) -> None:
    result = run("audit", doubtful, "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 3
    assert set(record) == {"source", "checkpoints", "main", "findings"}
    one = record["checkpoints"][1]
    assert one["verdict"] == "duplicate" and one["flags"] == {"duplicate": "the same weights as step4"}
    assert one["digest"] == record["checkpoints"][4]["digest"]


def test_what_cannot_be_opened_fails_as_elsewhere(tmp_path) -> None:
    assert run("audit", tmp_path).exit_code == 1
    assert run("audit", "no such source").exit_code == 2


def test_a_fit_says_what_it_leaves_out(doubtful, tmp_path) -> None:
    out = tmp_path / "scan"
    result = run("scan", doubtful, "--out", out, "--sequences", 2, "--length", 20)
    assert result.exit_code == 0
    flagged = "flagged, so that a fit leaves them out: step1 (duplicate), step4 (duplicate) (why: ontogeny audit "
    assert flagged in result.stdout
    gather_into(out, open_series(str(doubtful)))
    assert (
        "left out, 2 flagged by the audit (docs/audit.md): step1 (duplicate); step4 (duplicate)"
        in run("fit", out, columns=200).stdout
    )
    assert json.loads(run("fit", out, "--json").stdout)["left_out"] == ["step1 (duplicate)", "step4 (duplicate)"]
    result = run("audit", out)
    assert result.exit_code == 3 and "not checked" not in result.stdout
    page = tmp_path / "report.html"
    assert run("report", out, "--out", page).exit_code == 0
    text = page.read_text()
    assert (
        "2 checkpoints are flagged, and left out of fits and of what emerged" in text
        and "the same weights as step4" in text
    )
    assert "Left out, as flagged by the audit: step1 (duplicate); step4 (duplicate)." in text or "No curve of" in text
