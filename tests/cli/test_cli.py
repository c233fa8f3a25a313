"""The command line: what it prints, its exit codes, and one clear sentence for what goes wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import ontogeny
from ontogeny.cli.main import app
from ontogeny.cli.progress import DrawnProgress
from ontogeny.probes.registry import DEFAULT, EXPERIMENTS, PROBES
from ontogeny.version import __version__
from tests.checkpoint_folders import edit_weights, save_tiny
from tests.models import tiny_falcon

SMALL = ["--sequences", "3", "--length", "20"]
STEPS = (0, 1, 2, 4, 8, 16, 32)


def test_the_help_names_every_probe_and_the_default_ones():
    told = {option.name: option for option in get_command(app).commands["scan"].params}["probes"].help
    named, default = re.fullmatch(r"Which probes, separated by commas: ((.*) \(the default\).*)\.", told).groups()
    assert tuple(default.split(", ")) == DEFAULT
    probes, experiments = named.replace(" (the default)", "").split(", and experiments that run the model again: ")
    assert probes.split(", ") == list(PROBES) and experiments.split(", ") == list(EXPERIMENTS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "tiny"
    for step in STEPS:
        save_tiny(folder / f"step{step}", seed=step)
    return folder


@pytest.fixture(scope="module")
def scanned(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("scans") / "scan"
    assert run("scan", made, "--out", out, *SMALL).exit_code == 0
    return out


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_scan_says_what_it_measured_and_what_comes_next(made, tmp_path):
    result = run("scan", made, "--out", tmp_path / "scan", *SMALL, "--steps", "0,4:32:4")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"measured in {tmp_path / 'scan'}: 5 of tiny\n")
    assert "note: tiny has no tokenizer: it is measured on random token ids" in result.stderr
    assert f"next: ontogeny report {tmp_path / 'scan'}" in result.stdout
    assert "measured step4 (2/5)" in result.stderr


def test_scan_prints_json_for_machines(made, tmp_path):
    result = run("scan", made, "--out", tmp_path / "scan", *SMALL, "--steps", "0,1", "--json")
    assert json.loads(result.stdout) == {
        "path": str(tmp_path / "scan"),
        "measured": ["step0", "step1"],
        "failures": {},
    }


def test_a_second_scan_says_what_it_keeps(made, tmp_path):
    run("scan", made, "--out", tmp_path / "scan", *SMALL, "--steps", "0,1")
    result = run("scan", made, "--out", tmp_path / "scan", *SMALL, "--steps", "0,1,2")
    assert "note: measured before and kept: 2" in result.stderr
    assert ": 3 of tiny\n" in result.stdout


def test_some_failures_give_exit_code_three_and_are_listed(made, tmp_path):
    series = shutil.copytree(made, tmp_path / "tiny")
    edit_weights(series / "step2", lambda weights: weights.pop("embed_out.weight", weights.pop("lm_head.weight", None)))
    result = run("scan", series, "--out", tmp_path / "scan", *SMALL)
    assert result.exit_code == 3
    assert "failed: step2\n" in result.stdout and "failed: step2: the weights of" in result.stderr
    assert "Traceback" not in result.output


def test_fit_prints_a_row_a_depth(scanned):
    result = run("fit", scanned)
    assert result.exit_code == 0
    for word in ("massive_ratio of tiny", "verdict", "regime", "peak step"):
        assert word in result.stdout
    found = json.loads(run("fit", scanned, "--json").stdout)
    assert [row["depth"] for row in found["fits"]] == [0, 1, 2, 3]
    assert all(row["verdict"] for row in found["fits"])


def test_fit_takes_other_metrics(scanned):
    found = json.loads(run("fit", scanned, "--metric", "sink_score", "--json").stdout)
    assert len(found["fits"]) == 12 and {"layer", "head"} <= set(found["fits"][0])
    result = run("fit", scanned, "--metric", "charm")
    assert result.exit_code == 2 and "charm" in result.stderr and "massive_ratio" in result.stderr


def test_report_is_one_file_without_a_network(scanned, tmp_path):
    result = run("report", scanned, "--out", tmp_path / "report.html")
    assert result.exit_code == 0 and result.stdout == f"the report is in {tmp_path / 'report.html'}\n"
    page = (tmp_path / "report.html").read_text()
    assert "<script src" not in page and "<link" not in page and "tiny" in page


def test_report_of_a_model_whose_attention_is_not_seen(tmp_path):
    tiny_falcon().save_pretrained(tmp_path / "falcon" / "step3")
    assert run("scan", tmp_path / "falcon", "--out", tmp_path / "scan", *SMALL).exit_code == 0
    assert run("report", tmp_path / "scan", "--out", tmp_path / "report.html").exit_code == 0
    assert "FalconModel computes its attention without" in (tmp_path / "report.html").read_text()


def test_the_demo_shows_sinks_emerge(tmp_path):
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith(f"the report is in {tmp_path / 'demo' / 'report.html'}")
    assert "massive_ratio of pocket: ratio of means" in result.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "Attention sinks emerged: the sink rate at position 0 (ε = 0.3) first exceeds 0.5 at step 96" in page
    assert ontogeny.open_scan(tmp_path / "demo" / "pocket").dataset.sizes["checkpoint"] == 20


def test_report_of_sinks_alone(made, tmp_path):
    run("scan", made, "--out", tmp_path / "scan", *SMALL, "--steps", "0,1", "--probes", "sinks")
    assert run("report", tmp_path / "scan", "--out", tmp_path / "report.html").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["scan", "nothing-here", "--out", "{tmp}/s"], 2, "unknown source 'nothing-here': expected a Hub id"),
        (["scan", "{tmp}", "--out", "{tmp}/s"], 1, "no checkpoint"),
        (["scan", "{made}", "--out", "{tmp}/s", "--steps", "77"], 2, "match no checkpoint: tiny has"),
        (["scan", "{made}", "--out", "{tmp}/s", "--probes", "sunk"], 2, "unknown probe sunk"),
        (["scan", "{made}", "--out", "{tmp}/s", "--probes", ","], 2, r"unknown probe \(none given\)"),
        (
            ["scan", "{made}", "--out", "{tmp}/s", "--positions", "few"],
            2,
            "expected a number of key positions or all, got 'few'",
        ),
        (["scan", "{made}", "--out", "{tmp}/s", "--corpus", "builtin"], 1, "no tokenizer"),
        (["scan", "{made}", "--out", "{tmp}/s", "--corpus", "gone.txt"], 2, "there is no corpus gone.txt"),
        (["scan", "{made}", "--out", "{tmp}/s", "--steps", ""], 2, "cannot be read"),
        (["scan", "{made}", "--out", "{tmp}/s", "--steps", "0:100:0"], 2, "'0:100:0' is empty"),
        (["scan", "pocket", "--out", "{tmp}/s", "--length", "65"], 2, "has 65|64 tokens long, got length 65"),
        (["scan", "pocket", "--out", "{tmp}/s", "--bos", "never"], 2, "task is token ids already: leave it out"),
        (
            ["scan", "{made}", "--out", "{tmp}/s", "--corpus", "{tmp}/short.jsonl"],
            1,
            "0 documents of at least 64 tokens",
        ),
        (["scan", "{made}", "--out", "{tmp}/short.jsonl"], 1, "cannot write to"),
        (["scan", "{made}", "--out", "{scanned}", "--length", "21"], 1, "holds a scan with other settings"),
        (["scan", "{made}"], 2, "Missing option '--out'"),
        (["report", "{tmp}", "--out", "{tmp}/r.html"], 1, "holds no scan"),
        (["report", "{scanned}", "--out", "{tmp}/short.jsonl/r.html"], 1, "cannot be written"),
        (["fit", "{tmp}/absent"], 1, "holds no scan"),
        (["scam"], 2, "No such command 'scam'"),
    ],
)
def test_what_goes_wrong_is_said_in_a_sentence(made, scanned, tmp_path, arguments, code, words):
    (tmp_path / "short.jsonl").write_text('{"ids": [1, 2]}\n')
    places = {"tmp": tmp_path, "made": made, "scanned": scanned}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert re.search(words, " ".join(result.stderr.replace("│", " ").split())), result.stderr


def test_an_interrupt_keeps_what_was_measured(made, tmp_path, monkeypatch):
    def stop(self, name):
        if name == "step4":
            raise KeyboardInterrupt

    monkeypatch.setattr(DrawnProgress, "checkpoint", stop)
    result = run("scan", made, "--out", tmp_path / "scan", *SMALL)
    assert result.exit_code == 130
    assert "interrupted: checkpoints that were measured are kept" in result.stderr
    assert sorted(p.name for p in (tmp_path / "scan" / "checkpoints").iterdir()) == ["step0", "step1", "step2"]


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_only_with_debug(tmp_path, debug):
    command = [
        sys.executable,
        "-c",
        "from ontogeny.cli.main import main; main()",
        "report",
        str(tmp_path),
        "--out",
        "x",
    ]
    result = subprocess.run([*command, *(["--debug"] if debug else [])], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "error: " in result.stderr
    assert ("Traceback" in result.stderr) == debug


def test_a_real_interrupt_ends_with_130_and_the_scan_goes_on(made, tmp_path):
    """SIGINT from outside, once the first checkpoint is measured; a test run in the background may have it ignored."""
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from ontogeny.cli.main import main; main()"]
    arguments = ["scan", str(made), "--out", str(tmp_path / "scan"), "--sequences", "400", "--length", "64"]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        seen = next(line for line in process.stderr if line.startswith("measured"))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130 and "Traceback" not in rest, seen + rest
    assert list((tmp_path / "scan" / "checkpoints").glob("step*/zarr.json"))
    result = run(*arguments)
    assert result.exit_code == 0 and ": 7 of tiny" in result.stdout
    assert "note: measured before and kept: " in result.stderr


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_tells_checkpoint_block_rate_and_time(monkeypatch, width):
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=width)
    monkeypatch.setattr("ontogeny.cli.progress.Console", lambda **_: console)
    with DrawnProgress() as progress:
        progress.started(["step0", "step1"], already=0, blocks=3, tokens=100)
        progress.checkpoint("step0")
        progress.loaded()
        progress.block(0)
        progress.tokens(100)
        progress.finished("step0", None)
        progress.checkpoint("step1")
        progress.loaded()
        progress.block(1)
        progress.tokens(50)
        progress._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())
    last = [line for line in re.split(r"[\r\n]", shown) if "step1" in line][-1]
    assert len(last) <= width
    assert re.search(r"step1 .*1/2 block 2/3 [\d,]+ tok/s \d\d:\d\d", last)


def test_version():
    assert run("--version").stdout == f"ontogeny {__version__}\n"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", ["", "scan", "fit", "report", "demo"])
def test_help_fits_the_terminal(command, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    result = run(*filter(None, [command]), "--help")
    assert result.exit_code == 0 and "Usage" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= width
