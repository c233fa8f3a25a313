"""What a SOURCE can be, and what is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ontogeny.dynamics import sources
from ontogeny.dynamics.sources import hub, open_series
from ontogeny.errors import UsageError
from tests.checkpoint_folders import save_tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hub ids that were opened, instead of opening them, each with the part that was asked for."""
    ids: list[str] = []
    monkeypatch.setattr(hub, "open_hub", lambda *asked_for: ids.append("@".join(filter(None, asked_for))))
    return ids


@pytest.mark.parametrize(
    "source",
    [
        "EleutherAI/pythia-70m",
        "a/b",
        "HuggingFaceTB/SmolLM2-135M_x.1",
        "01-ai/Yi",
        "allenai/OLMo-2-1124-7B@stage2-ingredient1",
    ],
)
def test_an_id_with_an_owner_is_asked_of_the_hub(source: str, asked: list[str]) -> None:
    open_series(source)
    assert asked == [source]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "gpt2",
        "no such folder",
        "./runs",
        "../runs/a",
        "/no/such/folder",
        "a/b/c",
        "~/nowhere",
        "o/m.gguf",
        "a/b?",
        "-a/b",
    ],
)
def test_what_is_no_source_is_wrong_usage(source: str, asked: list[str]) -> None:
    with pytest.raises(
        UsageError,
        match=r"expected a Hub id \(owner/name\), .*\.gguf file or state dict .*, `smollm2` or `pocket`",
    ):
        open_series(source)
    assert not asked


def test_a_file_of_another_kind_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/model.onnx").touch()
    with pytest.raises(UsageError, match=r"unknown source 'runs/model.onnx'"):
        open_series("runs/model.onnx")
    assert not asked


def test_a_folder_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("owner/name/step4"))
    assert open_series("owner/name").checkpoints[0].step == 4
    assert not asked


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_tiny(tmp_path / "run" / "step4")
    assert open_series("~/run").source == str(tmp_path / "run")


def test_opening_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    save_tiny(tmp_path / "step4")
    code = (
        "import sys\n"
        "import ontogeny.dynamics.steps\n"
        "from ontogeny.dynamics.sources import gguf, hub, local, open_series, pocket, smollm2\n"
        f"assert len(open_series({str(tmp_path)!r}).checkpoints) == 1\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    root = Path(sources.__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
