"""The benchmark on a stand-in for the Hub that serves nine models of planted curves in the release's form."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.dynamics.published.pythia import pythia_arch
from ontogeny.dynamics.published.release import RELEASE
from tests.benchmark_scripts import benchmark_script
from tests.fitting.architecture.families import planted
from tests.hub_server import Repository, serve

STEPS = (0, 32, 512, 2000, 8000, 24000, 60000, 143000)
SIZES = ("14m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_script("predictor")


def release() -> Repository:
    files = {}
    for size in SIZES:
        arch = pythia_arch(size)
        u = np.arange(arch.layers) / (arch.layers - 1)
        curves = np.stack([planted(arch, float(x))(np.array(STEPS, dtype=float)) for x in u])
        for place, step in enumerate(STEPS):
            values = np.ones((10, 4, arch.layers))
            values[:, 0] = 1 + np.abs(curves[:, place])
            with np.printoptions(threshold=10**9, precision=8):
                files[f"pythia_{size}/stats/exp2_pythia_{size}_step{step}"] = str(values).encode()
    return Repository(branches={"main": files})


def test_the_whole_release_is_scored_beside_the_published_table(benchmark, tmp_path, capsys) -> None:
    with serve({RELEASE: release()}) as hub:
        chosen = ["--predictors", "null,scale,direct,ridge"]
        benchmark.main(["--full", "--cache", str(tmp_path), "--endpoint", hub.endpoint, *chosen])
    printed = capsys.readouterr().out
    assert printed.startswith("massive_ratio: 188 curves of 9 models")
    assert "**Leave one model out (the headline)**" in printed and "leaks between layers" in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert ["published, the best", "0.476", "0.664", "0.055", "0.447", "0.847"] in rows
    ridge = rows[-1]
    assert ridge[0] == "ridge" and float(ridge[-1]) > 0.9
    overall = rows[0].index("overall")
    headline = {row[0]: row for row in rows[2:6]}
    assert float(headline["direct"][overall]) < float(headline["null"][overall])


def test_the_bundled_part_is_not_set_beside_it(benchmark, capsys) -> None:
    benchmark.main(["--predictors", "null,scale", "--metric", "top_activation"])
    printed = capsys.readouterr().out
    assert printed.startswith("top_activation: 70 curves of 4 models") and "published" not in printed
    with pytest.raises(SystemExit):
        benchmark.main(["--predictors", "oracle"])
    assert "expected predictors among null, scale" in capsys.readouterr().err
