"""`ontogeny simulate`: its table, its files, and one sentence for what cannot be simulated."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from typer.testing import CliRunner, Result

import ontogeny
from ontogeny.cli.main import app
from ontogeny.cli.simulate import read_betas
from ontogeny.errors import UsageError

SMALL = ("--particles", "5", "--beta", "1,3", "--samples", "2", "--horizon", "20")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


@pytest.fixture(scope="module")
def expected() -> xr.Dataset:
    return ontogeny.simulate(5, 2, (1.0, 3.0), samples=2, horizon=20.0)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_has_a_row_a_beta_and_fits(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = run(*SMALL)
    assert result.exit_code == 0
    rows = re.findall(r"^ +([13]) +(\S.*?) +([\d.]+) +(\S.*?) +(\d+) *$", result.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(len(line.rstrip()) <= int(columns) for line in result.stdout.splitlines())
    assert "5 particles in 2 dimensions, threshold 0.999" in result.stdout


def test_json_holds_every_trajectory(expected: xr.Dataset) -> None:
    told = json.loads(run(*SMALL, "--json").stdout)
    assert told["settings"]["particles"] == 5 and len(told["trajectories"]) == 4
    for row in told["trajectories"]:
        one = expected.sel(beta=row["beta"], sample=row["sample"], threshold=0.999)
        assert row["verdict"] == str(one["verdict"].item()) and row["steps"] == int(one["steps"])
        assert row["mergers"] == int(np.isfinite(one["merger_time"]).sum())
        assert row["clusters"] == int(one["cluster_count"][-1])
        ends = one["plateau_end"].fillna(one["end_time"])
        lifetimes = (ends - one["plateau_start"]).where(one["plateau_count"] > 0)
        place = int(np.nanargmax(lifetimes.values))
        longest = row["longest_plateau"]
        assert longest["lifetime"] == pytest.approx(float(lifetimes[place]))
        assert longest["clusters"] == int(one["plateau_count"][place])
        assert longest["end_seen"] == bool(np.isfinite(one["plateau_end"][place]))


def test_the_dataset_is_written_once_with_states_where_asked(tmp_path: Path, expected: xr.Dataset) -> None:
    result = run(*SMALL, "--out", tmp_path / "run", "--plot", tmp_path / "run.html")
    assert result.exit_code == 0 and f"dataset: {tmp_path / 'run'}" in result.stdout
    with xr.open_zarr(tmp_path / "run", consolidated=False) as stored:
        xr.testing.assert_equal(stored.load(), expected)
        assert stored.attrs == expected.attrs
    page = (tmp_path / "run.html").read_text()
    assert "Simulated particles" in page and "angle" in page and "Clustered pairs" not in page
    again = run(*SMALL, "--out", tmp_path / "run")
    assert again.exit_code == 2 and "is there already" in again.stderr and again.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.html"]
    assert run(*SMALL, "--states", "--out", tmp_path / "with").exit_code == 0
    with xr.open_zarr(tmp_path / "with", consolidated=False) as stored:
        assert stored["state"].shape == (2, 2, 121, 5, 2)


def test_many_betas_add_a_phase_diagram(tmp_path: Path) -> None:
    result = run("--particles", 3, "--dimension", 4, "--beta", "1:3:0.4", "--horizon", 5, "--plot", tmp_path / "p.html")
    assert result.exit_code == 0
    page = (tmp_path / "p.html").read_text()
    assert "Clustered pairs" in page and page.count("<!doctype html>") == 1


def test_a_plot_in_three_dimensions_shows_the_paths(tmp_path: Path) -> None:
    asked = ("--particles", "4", "--beta", "2", "--horizon", "3", "--plot", tmp_path / "p.html")
    for dimension, drawn in (("3", True), ("4", False)):
        assert run(*asked, "--dimension", dimension).exit_code == 0
        page = (tmp_path / "p.html").read_text()
        assert page.count('"type":"scatter3d"') == (5 if drawn else 0)  # four paths, and where they end


def test_the_bar_tells_the_share_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=80)
    monkeypatch.setattr("ontogeny.cli.progress.Console", lambda **_: console)
    assert run(*SMALL).exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())
    assert re.search(r"simulating .* 100% ", shown), shown


def test_every_option_reaches_the_simulation(tmp_path: Path) -> None:
    """Dropping any of them gives other numbers."""
    np.savez(tmp_path / "m.npz", Q=[[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    options = {
        "particles": 6,
        "dimension": 3,
        "beta": 2.5,
        "samples": 2,
        "horizon": 1.5,
        "kind": "usa",
        "matrices": tmp_path / "m.npz",
        "causal": True,
        "noise": 0.1,
        "start": "caps:2",
        "cap_radius": 0.05,
        "seed": 3,
        "step_budget": 140,
    }
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name != "causal"]
    result = run(*arguments, "--causal", "--states", "--out", tmp_path / "run")
    assert result.exit_code == 3, result.output  # step budget
    given = {name: value for name, value in options.items() if name != "matrices"}
    given |= {"Q": np.load(tmp_path / "m.npz")["Q"], "keep_states": True}
    with xr.open_zarr(tmp_path / "run", consolidated=False) as stored:
        stored.load()
    assert stored.equals(ontogeny.simulate(**given))
    for name in given:
        without = {key: value for key, value in given.items() if key != name}
        if name == "dimension":
            without.pop("Q")
        assert not stored.equals(ontogeny.simulate(**without)), name


def test_a_spent_step_budget_is_told_and_keeps_its_part(tmp_path: Path) -> None:
    result = run(*SMALL, "--step-budget", 9, "--out", tmp_path / "run")
    assert result.exit_code == 3 and "raise --step-budget or lower --horizon" in result.stdout
    assert (tmp_path / "run").is_dir()


def test_the_title_and_the_settings_say_what_is_not_by_default(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", V=np.stack([np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]]))
    asked = ("--matrices", tmp_path / "m.npz", "--causal", "--noise", "0.1", "--horizon", "0.1", "--start", "caps:2")
    said = " ".join(run(*SMALL, *asked).stdout.split())
    assert said.startswith("sa: 5 particles in 2 dimensions, 2 heads, V given, causal, noise 0.1, start caps:2 of")
    plain = " ".join(run(*SMALL).stdout.split())
    assert plain.startswith("sa: 5 particles in 2 dimensions, threshold 0.999 beta")
    told = [json.loads(run(*SMALL, *more, "--json").stdout)["settings"]["causal"] for more in ((), asked)]
    assert told[0] is False and told[1] is True


def test_notes_say_what_is_no_plateau_and_where_the_count_rises() -> None:
    few = run("--particles", "2", "--beta", "2", "--horizon", "5").stdout
    assert re.search(r"^ +2 +collapsed +1 +- +\d+ *$", few, re.MULTILINE)
    assert "as many clusters as particles are none" in few and "two particles are two clusters or one" in few
    assert "a plateau may be the random start" in few and "rises" not in few
    chain = ("--particles", "200", "--beta", "1,60", "--horizon", "3", "--samples", "2")
    found = ontogeny.simulate(200, 2, [1.0, 60.0], samples=2, horizon=3.0)["cluster_count"].sel(threshold=0.999)
    rising = int((found.max("time") > found.isel(time=0)).sum())
    said = run(*chain).stdout
    assert (
        rising
        and f"the count rises above its first in {rising} of 4 trajectories" in said
        and "two clusters or" not in said
    )


def test_matrices_are_read(tmp_path: Path) -> None:
    turn = np.stack([np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]])
    np.savez(tmp_path / "m.npz", V=turn)
    told = json.loads(run(*SMALL[:-1], "1", "--matrices", tmp_path / "m.npz", "--json").stdout)
    assert told["settings"]["heads"] == 2 and told["settings"]["identity"] == "Q, K"


def test_caps_that_overlap_fit_with_a_smaller_radius() -> None:
    asked = ("--particles", "12", "--start", "caps:12", "--beta", "2", "--horizon", "1", "--seed", "3")
    assert run(*asked).exit_code == 2
    told = json.loads(run(*asked, "--cap-radius", "0.002", "--json").stdout)
    assert told["settings"]["start"] == "caps:12 of radius 0.002"
    expected = ontogeny.simulate(12, 2, 2.0, start="caps:12", cap_radius=0.002, horizon=1.0, seed=3)
    assert told["trajectories"][0]["steps"] == expected["steps"].item()
    assert re.search(r"--cap-radius .*?0\.1\]", " ".join(run("--help").stdout.split()))


def test_betas_are_numbers_and_ranges() -> None:
    assert read_betas("9,1,4,1") == [1, 4, 9]
    assert read_betas("0.1:9:0.1") == [round(0.1 * i, 1) for i in range(1, 91)]
    assert read_betas("1:2:0.4, 7") == [1, 1.4, 1.8, 7]
    assert read_betas("2:2:1") == [2]


@pytest.mark.parametrize(
    "text", ["", "1,,2", "many", "nan:2:1", "1:inf:1", "1:2", "2:1:1", "1:2:0", "1:2:-1", "1:2:3:4"]
)
def test_other_betas_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected --beta to be numbers and ranges FIRST:LAST:STEP"):
        read_betas(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--beta", "0"), "expected every beta to be positive and finite, got 0"),
        (("--beta", "-1"), "expected every beta to be positive"),
        (("--beta", "nan"), "expected every beta to be positive and finite, got nan"),
        (("--beta", "inf"), "expected every beta to be positive and finite, got inf"),
        (("--beta", "1e300"), "expected every beta to be at most 1,000,000, got 1e.300"),
        (("--particles", "100000"), "expected a simulation that fits the memory that is free"),
        (("--samples", "1000000000"), "for the record of 3 betas x 1,000,000,000 samples at 121 times"),
        (
            ("--start", "caps:32"),
            "expected caps that do not overlap, got caps:32 of radius 0.1: the best centres found",
        ),
        (("--beta", "0:1e9:0.1"), "expected at most 10,000 betas"),
        (("--particles", "1"), "expected particles to be a whole number of at least 2, got 1"),
        (("--dimension", "1"), "expected dimension to be a whole number of at least 2, got 1"),
        (("--samples", "0"), "expected samples to be a whole number of at least 1, got 0"),
        (("--horizon", "0"), "expected a horizon that is positive and finite, got 0"),
        (("--horizon", "inf"), "expected a horizon that is positive and finite, got inf"),
        (("--noise", "-1"), "expected noise .sigma. that is not negative"),
        (("--kind", "gelu"), "expected kind to be one of sa, usa, .*got 'gelu'"),
        (("--start", "caps:99"), "expected start 'uniform', 'caps:K' with 1 <= K <= 32, or an array, got 'caps:99'"),
        (("--step-budget", "0"), "expected step_budget to be a whole number of at least 1, got 0"),
        (("--seed", "-1"), "expected seed to be a whole number of at least 0, got -1"),
        (("--out", "/nowhere/run"), "expected --out DIR in a folder that is there"),
        (("--plot", "/nowhere/p.html"), "expected --plot FILE in a folder that is there"),
        (("--plot", "/"), "expected --plot FILE to be a file, got the folder /"),
        (("--matrices", "/nowhere.npz"), "/nowhere.npz cannot be read: No such file"),
    ],
)
def test_bad_input_is_a_sentence(arguments: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.dynamics.particles.memory.free_memory", lambda: 16 << 30)
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert re.search(said, " ".join(result.stderr.split())), result.stderr
    assert "unforeseen" not in result.stderr


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_what_cannot_be_written_is_found_before_the_simulation(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.dynamics.particles.simulate.run", None)
    result = run(*SMALL, option, "/proc/foo")
    assert result.exit_code == 2 and result.stdout == ""
    assert f"expected {option}" in result.stderr and "where it can be written, got /proc/foo" in result.stderr


def test_a_plot_that_is_there_is_kept_until_there_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text("old")
    for plot in ("p.html", "new.html"):
        assert run(*SMALL, "--plot", tmp_path / plot, "--horizon", "0").exit_code == 2
    assert (tmp_path / "p.html").read_text() == "old" and not (tmp_path / "new.html").exists()


def test_the_table_is_told_though_the_disk_fails_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    result = run(*SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 1 and "No space left" in result.stderr
    assert "longest plateau" in result.stdout and "dataset:" not in result.stdout and not any(tmp_path.iterdir())


def test_bad_matrices_are_a_sentence(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    bad = {
        "pickled": (
            {"Q": np.array([Canary()], dtype=object)},
            "expected a NumPy archive .* of real numbers with Q, K or V, .* is none",
        ),
        "named": ({"W": np.eye(2)}, "expected arrays named Q, K or V in .*, got W"),
        "shaped": ({"Q": np.eye(3)}, r"expected Q of shape \(2, 2\)"),
        "complex": ({"Q": np.eye(2) * 1j}, "expected real numbers in .*, got complex128 for Q"),
        "infinite": ({"Q": np.full((2, 2), np.inf)}, "expected Q with finite entries"),
    }
    for name, (arrays, said) in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        result = run("--matrices", tmp_path / f"{name}.npz")
        assert result.exit_code == 2 and re.search(said, " ".join(result.stderr.split())), (name, result.stderr)
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.eye(2))
    np.save(tmp_path / "objects.npy", np.array([Canary()], dtype=object))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "shaped.npz").read_bytes()[:200])
    (tmp_path / "m.py").write_text("Q = 1")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text.npz", "one.npy", "objects.npy", "broken.npz", "m.py", "empty.npz"):
        result = run("--matrices", tmp_path / name)
        said = " ".join(result.stderr.split())
        assert result.exit_code == 2 and "expected a NumPy archive (.npz, as numpy.savez writes)" in said, said
        assert f"{name} is none" in said and "pickle" not in said
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_simulation_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ontogeny.dynamics.particles.simulate.run", stop)
    result = run(*SMALL)
    assert result.exit_code == 130 and "interrupted: it was not finished; run it again" in result.stderr
