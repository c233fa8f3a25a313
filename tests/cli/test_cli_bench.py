"""`ontogeny bench` at the command line, on problems small enough for a test."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from ontogeny.bench import cases, models
from ontogeny.cli.main import app


@pytest.fixture(autouse=True)
def small(monkeypatch):
    case = cases.AttentionCase(2, 4, 4, 48, 16, torch.float32)
    monkeypatch.setattr(cases, "default_cases", lambda device, dtype: [case])
    tiny = models.ModelCase(layers=1, width=16, heads=2, vocabulary=60, batch=2, length=24)
    monkeypatch.setattr(models, "ModelCase", lambda: tiny)


def test_the_table_names_the_machine_and_what_was_not_measured():
    result = CliRunner().invoke(app, ["bench", "--repeats", "1", "--device", "cpu"])
    assert result.exit_code == 0
    assert f"torch {torch.__version__}" in result.stdout and "threads" in result.stdout
    assert "ontogeny, triton: not measured, needs an NVIDIA GPU\n" in result.stdout
    assert "SDPA, output only" in result.stdout and "1.00" in result.stdout
    assert "timing B2 H4 T48 d16 float32" in result.stderr
    assert max(map(len, result.stdout.splitlines()[2:])) <= 80


def test_json_has_every_record():
    result = CliRunner().invoke(app, ["bench", "--repeats", "1", "--device", "cpu", "--json"])
    found = json.loads(result.stdout)
    assert found["repeats"] == 1 and found["machine"]["device"]
    contenders = {record["contender"]: record for record in found["records"]}
    assert contenders["ontogeny, blocked"]["milliseconds"] > 0
    assert contenders["ontogeny, triton"]["milliseconds"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda:7"], "device 'cuda:7' is not available"),
        (["--dtype", "int8"], "unknown dtype 'int8': expected one of float64"),
    ],
)
def test_what_is_not_there_is_wrong_usage(arguments, words):
    result = CliRunner().invoke(app, ["bench", "--repeats", "1", *arguments])
    assert result.exit_code == 2 and words in result.stderr
