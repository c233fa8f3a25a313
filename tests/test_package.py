"""Importing the package costs nothing, and its public names are all there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ontogeny

HEAVY = ("torch", "transformers", "xarray", "numpy", "plotly", "scipy", "sklearn")


def modules_after(statement):
    program = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import ontogeny",
        "import ontogeny.cli.main",
        "import sys; sys.argv = ['ontogeny', '--help']\nfrom ontogeny.cli.main import app\n"
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n    app(standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported(statement):
    assert modules_after(statement) == []


@pytest.mark.parametrize("package", ["ontogeny.fitting", "ontogeny.fitting.architecture", "ontogeny.plots"])
def test_fitting_and_plots_never_import_torch(package):
    assert "torch" not in modules_after(f"import {package}")
    assert "transformers" not in modules_after(f"import {package}")
    assert "sklearn" not in modules_after(f"import {package}")


def test_every_public_name_is_there():
    for name in ontogeny.__all__:
        assert getattr(ontogeny, name) is not None
    assert set(dir(ontogeny)) == set(ontogeny.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sink'"):
        _ = ontogeny.sink
