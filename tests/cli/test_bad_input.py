"""Whatever is wrong with the input: one sentence, the right exit code, no traceback, and no code that came with it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import ontogeny
from ontogeny.cli.main import app
from tests.checkpoint_folders import save_tiny
from tests.cli.bad.configs import CONFIGS
from tests.cli.bad.folders import FOLDERS
from tests.cli.bad.requests import REQUESTS
from tests.cli.bad.row import CANARY, SCAN, SMALL, Row
from tests.cli.bad.sources import SOURCES
from tests.cli.bad.tokens import TOKENS
from tests.cli.bad.weights import WEIGHTS
from tests.models import tiny

ROWS = [*WEIGHTS, *CONFIGS, *TOKENS, *SOURCES, *FOLDERS, *REQUESTS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "run"
    for step in (1, 2):
        save_tiny(folder / f"step{step}", seed=step)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path


def run(place: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [argument.replace("{tmp}", str(place)) for argument in arguments])


def plain(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("row", ROWS, ids=[row.name[:60] for row in ROWS])
def test_bad_input_is_answered_in_a_sentence(place: Path, row: Row) -> None:
    row.make(place)
    result = run(place, *row.arguments)
    said = plain(result.stderr)
    assert result.exit_code == row.code, result.output
    assert re.search(row.said, said), said
    assert "Traceback" not in result.output and "unforeseen" not in said
    if row.code in (1, 2):
        assert result.stdout == ""
    if row.code == 3:
        assert re.search(r"^failed: .*2\n", result.stdout, re.MULTILINE), result.stdout
        assert len([line for line in result.stderr.splitlines() if line.startswith("failed: ")]) == 1
    assert not (place / CANARY).exists()


def test_there_are_many_kinds() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 30


NASTY = "<script>alert('1')<b>\"x\"\n[bold]&[red]"


def test_names_with_quotes_newlines_and_markup(place: Path) -> None:
    series = place / f"run {NASTY}"
    for step in (1, 2, 3):
        shutil.copytree(place / "run" / f"step{min(step, 2)}", series / f"step{step}-{NASTY}")
    (series / f"step3-{NASTY}" / "model.safetensors").write_bytes(b"")
    result = run(place, "scan", str(series), "--out", "{tmp}/scan", *SMALL)
    assert result.exit_code == 3, result.output
    assert f"failed: step3-{NASTY}: " in result.stderr and f": 2 of run {NASTY}\n" in result.stdout
    assert f"step1-{NASTY}" in ontogeny.open_scan(place / "scan").dataset.checkpoint
    assert run(place, "fit", "{tmp}/scan").exit_code == 0
    assert run(place, "report", "{tmp}/scan", "--out", "{tmp}/r.html").exit_code == 0
    assert_escaped(place / "r.html")


def test_a_name_that_would_end_a_script(place: Path) -> None:
    """No folder's name can hold a slash; a series in memory can."""
    states = {step: tiny("gpt_neox", step).state_dict() for step in (1, 2)}
    series = ontogeny.open_state_dicts(states, tiny("gpt_neox").config, name=f"</script></title>{NASTY}")
    ontogeny.scan(series, place / "scan", sequences=2, length=20)
    assert run(place, "report", "{tmp}/scan", "--out", "{tmp}/r.html").exit_code == 0
    assert_escaped(place / "r.html")


def assert_escaped(page: Path) -> None:
    """What the page says of the name stands there as text; none of it is markup."""
    text = page.read_text()
    assert "<script>alert" not in text and "</script></title>" not in text and "alert(" in text
    assert text.count("&lt;script&gt;alert") >= 2 and "[bold]&amp;[red]" in text


HOLD = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"


def test_two_scans_into_one_folder_at_once(place: Path) -> None:
    (place / "scan").mkdir()
    command = [sys.executable, "-c", HOLD, str(place / "scan" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "1\n"
        result = run(place, *SCAN)
        other.kill()
    assert result.exit_code == 1 and result.stdout == ""
    assert "another process is scanning into" in result.stderr and "use another --out" in plain(result.stderr)
    assert (place / "scan" / "lock").exists()
    assert run(place, *SCAN).exit_code == 0  # the lock of a process that was killed is no hindrance
