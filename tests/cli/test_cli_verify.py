"""`ontogeny verify`: the listing, the table, the JSON and the exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import partial

import pytest
from typer.testing import CliRunner

from ontogeny.cli.main import app
from ontogeny.dynamics.sources.hub import open_hub
from ontogeny.dynamics.verify import run
from ontogeny.dynamics.verify.compare import Row, Used
from ontogeny.dynamics.verify.published import select
from tests.hub_server import serve
from tests.published_models import GPT2_XL, save_published, served

SMALL = ("--sequences", 4, "--length", 12, "--device", "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {GPT2_XL: save_published(tmp_path_factory.mktemp("published") / "gpt2", "gpt2", 1, bos=False)}


@pytest.fixture
def hub(folders, tmp_path, monkeypatch, online):
    with serve(served(folders)) as running:
        asked = partial(open_hub, endpoint=running.endpoint, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(run, "open_hub", asked)
        yield running


def call(*arguments, columns=80):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)], env={"COLUMNS": str(columns)})


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_without_names_the_models_are_listed_and_nothing_is_asked(no_network) -> None:
    result = call()
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if "/" in line}
    assert lines["GPT2-XL"] == [GPT2_XL, "sinks", "6.2"]
    assert lines["LLaMA3.1-405B"] == ["meta-llama/Llama-3.1-405B", "sinks", "1,624*"]
    assert len([name for name in lines if name != "next:"]) == 21
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "next: ontogeny verify NAMES, which downloads those models" in result.stdout


def test_the_listing_of_one_table_and_as_json(no_network) -> None:
    record = json.loads(call("--table", "ratio", "--json").stdout)
    assert [one["model"] for one in record["models"]] == ["Pythia-14m", "Pythia-1.4b", "Pythia-12b"]
    assert record["models"][0] == {
        "model": "Pythia-14m",
        "hub_id": "EleutherAI/pythia-14m",
        "revision": "step143000",
        "tables": ["ratio"],
        "float32_gb": 0.056,
        "gated": False,
    }


@pytest.mark.parametrize(
    "wrong", [("gpt3",), ("gpt2-xl", "--all"), ("--table", "sink"), ("gpt2-xl", "--table", "ratio"), ("--length", "1")]
)
def test_wrong_usage(no_network, wrong) -> None:
    assert call(*wrong).exit_code == 2


def test_published_and_ours_stand_side_by_side(hub) -> None:
    result = call("gpt2-xl", *SMALL)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    ours = run.verify(select(["gpt2-xl"]), sequences=4, length=12, device="cpu")[0]
    [text] = [line for line in lines if line.startswith(" Sink_1 %, text")]
    assert text.split()[3:] == ["GPT2-XL", "77.00", f"{ours.ours:.2f}", f"{ours.ours - 77:+.2f}*", "1-5"]
    assert "* beyond our own tolerance, no paper's: sinks 5 points" in lines
    assert "  3  4 sequences, published over 100" in lines
    assert "loading openai-community/gpt2-xl, about 6.2 GB in float32" in result.stderr


def test_what_could_not_be_measured_is_said_and_is_exit_code_three(hub) -> None:
    result = call("gpt2-xl", "mistral-7b", *SMALL)
    assert result.exit_code == 3
    [line] = [
        line for line in result.stdout.splitlines() if line.startswith(" Sink_1 %, text") and "Mistral-7B" in line
    ]
    number = line.split()[-1]
    assert line.split()[4:] == ["97.49", "not", "measured", "-", "1,", number]
    assert (
        f"  {line.split()[-1]}  not measured: there is no model repository mistralai/Mistral-7B-v0.1" in result.stdout
    )


def test_json(hub) -> None:
    result = call("gpt2-xl", "mistral-7b", *SMALL, "--json")
    assert result.exit_code == 3
    rows = json.loads(result.stdout)["rows"]
    assert [row["model"] for row in rows] == ["GPT2-XL"] * 3 + ["Mistral-7B"] * 3
    first = rows[0]
    assert (first["published"], first["source"], first["hub_id"]) == (77.0, "arXiv 2410.10781", GPT2_XL)
    assert first["published_protocol"] == {
        "text": "the paper's text",
        "sequences": 100,
        "length": 64,
        "dtype": "float32",
    }
    assert first["difference"] == pytest.approx(first["ours"] - 77.0) and first["beyond_tolerance"] is True
    assert first["measured_with"]["length"] == 12 and first["measured_with"]["corpus"] == "builtin"
    assert first["not_measured"] is None and rows[3]["ours"] is None
    assert "mistralai/Mistral-7B-v0.1" in rows[3]["not_measured"]


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_cut_off(monkeypatch, columns) -> None:
    used = Used("builtin", "f", 10, 4096, "auto", "float32", "cpu", "main", "none", 1)
    ours = {"dimensions": (1415, 2533), "peak": 2512.4, "perplexity_zero": float("inf")}
    rows = [Row(one, ours.get(one.quantity.key, one.value), used) for one in select(None)]
    monkeypatch.setattr(run, "verify", lambda *_arguments, **_options: rows)
    result = call("--all", columns=columns)
    lines = result.stdout.splitlines()
    numbers = [number for number, line in enumerate(lines) if line.startswith("  1  published: ")]
    assert result.exit_code == 0 and max(map(len, lines[: numbers[0]])) <= columns
    for label, cells in {
        "Sink_1 %, text      LLaMA2-13B-chat": ["90.94", "90.94", "+0.00"],
        "peak |h|             LLaMA2-7B": ["2,512", "2,512", "x", "1"],
        "peak |h|             gemma-3-1b": ["81,920", "2,512", "x", "0.0307*"],
        "first block, from 1  LLaMA2-7B": ["2", "2", "+0"],
        "dimensions           LLaMA2-7B": ["1415,", "2533", "1415,", "2533", "same"],
        "perplexity, to 0     LLaMA2-7B": ["infinite", "infinite", "same"],
    }.items():
        [at] = [number for number, line in enumerate(lines) if line.startswith(f" {label} ")]
        found = lines[at].removeprefix(f" {label}").split()
        assert found[: len(cells)] == cells
        more = next(number for number in range(at + 1, len(lines)) if lines[number][:2].strip())
        notes = " ".join([*found[len(cells) :], *(part for line in lines[at + 1 : more] for part in line.split())])
        assert notes.count("-") + notes.count(",") >= 1 and not notes.endswith(("-", ","))
    assert "Pythia-1.4b" in result.stdout and "blocks and dimensions" not in result.stdout


def test_the_command_itself_asks_the_hub_that_it_is_told(folders, tmp_path) -> None:
    with serve(served(folders)) as running:
        environment = os.environ | {"HF_ENDPOINT": running.endpoint, "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "ontogeny", "verify", GPT2_XL, *map(str, SMALL), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert all(row["ours"] is not None for row in json.loads(done.stdout)["rows"])
        assert any(request.endswith("/model.safetensors") for request in running.requests)
