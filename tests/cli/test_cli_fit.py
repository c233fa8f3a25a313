"""`ontogeny fit`: what its table says at which width, the comparison with rivals, and what machines read."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

import ontogeny
from ontogeny.cli.main import app
from ontogeny.fitting import compare_rivals, fit
from ontogeny.fitting.rivals import FAMILIES, OURS

METRIC = ("--metric", "top_activation")


@pytest.fixture(autouse=True)
def scan(monkeypatch: pytest.MonkeyPatch) -> ontogeny.Scan:
    """The bundled curves of Pythia 14m at three depths, of three sequences, in place of a folder."""
    whole = ontogeny.load_pythia()["14m"].dataset
    one = ontogeny.Scan(whole.isel(depth=[1, 4, 5], sequence=[0, 1, 2]))
    monkeypatch.setattr("ontogeny.dynamics.opening.open_scan", lambda folder: one)
    return one


def run(*arguments: object, columns: int = 80) -> Result:
    return CliRunner().invoke(app, ["fit", "x", *map(str, arguments)], env={"COLUMNS": str(columns)})


def test_a_curve_is_one_line_with_its_intervals_where_there_is_room(scan: ontogeny.Scan) -> None:
    result = run(*METRIC, columns=120)
    assert result.exit_code == 0
    fits = fit(scan, "top_activation").sel(depth=6)
    low, own, high = (float(fits[f"final_value{end}"]) for end in ("_low", "", "_high"))
    row = next(line for line in result.stdout.splitlines() if line.split()[:1] == ["6"])
    assert f"{own:.3g} [{low:.3g}, {high:.3g}]" in row
    assert f"[{float(fits['peak_step_low']):.0f}, {float(fits['peak_step_high']):.0f}]" in row
    assert "early peak" in row and "not identifiable" in row and f"{float(fits['r2']):.3f}" in row
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert "0.95 confidence, profile likelihood" in result.stdout


def test_it_is_two_lines_in_eighty_columns(scan: ontogeny.Scan) -> None:
    lines = run(*METRIC).stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.split()[:1] == ["6"])
    assert "early peak" in lines[place] and "not identifiable" in lines[place + 1]
    assert lines[place + 1].count("[") == 3
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_what_the_data_leave_open_is_said_so() -> None:
    row = next(line for line in run(*METRIC, columns=120).stdout.splitlines() if line.split()[:1] == ["5"])
    assert "[open, open]" in row
    found = json.loads(run(*METRIC, "--json").stdout)["fits"][1]
    assert "peak_step" in found["left_open"]
    assert found["peak_step"] > 0 and found["peak_step_high"] is None


def test_the_level_is_that_of_the_intervals() -> None:
    wide, narrow = (json.loads(run(*METRIC, "--level", level, "--json").stdout) for level in (0.95, 0.5))
    assert (wide["level"], narrow["level"]) == (0.95, 0.5)
    for one, other in zip(wide["fits"], narrow["fits"], strict=True):
        assert one["final_value"] == other["final_value"]
        assert one["final_value_low"] < other["final_value_low"] < other["final_value_high"] < one["final_value_high"]


def test_rivals_are_compared_in_table_and_words(scan: ontogeny.Scan) -> None:
    result = run(*METRIC, "--against", "rivals")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    compared = compare_rivals(fit(scan, "top_activation", level=None))
    table = result.stdout.split("rivals: AICc above the lowest")[1]
    cells = next(line.split() for line in table.splitlines() if line.split()[:1] == ["6"])
    forecasts = compared["forecast"].sel(depth=6).values
    lowest = float(compared["aicc"].sel(depth=6).min())
    assert len(cells) == 1 + 2 * len(FAMILIES)
    assert cells[1:3] == ["-", "-"]  # seven points are too few for our five parameters and the correction
    assert cells[3::2] == [f"{value - lowest:.1f}" for value in compared["aicc"].sel(depth=6).values[1:]]
    assert cells[4::2] == [f"{value:.2f}" for value in forecasts[1:]]
    words = " ".join(table.split())
    assert "best by AICc, of 3: first-order step response at 3" in words
    assert f"logistic in log step {float(compared['forecast'].sel(family='logistic in log step').mean()):.2f}" in words


def test_rivals_for_machines(scan: ontogeny.Scan) -> None:
    found = json.loads(run(*METRIC, "--against", "rivals", "--json").stdout)
    assert [place["depth"] for place in found["rivals"]["places"]] == [2, 5, 6]
    families = found["rivals"]["places"][0]["families"]
    assert list(families) == list(FAMILIES)
    assert families[OURS]["aicc"] is None and families[OURS]["r2"] == pytest.approx(found["fits"][0]["r2"])
    assert found["rivals"]["summary"]["first-order step response"]["best"] == 3
    assert "rivals" not in json.loads(run(*METRIC, "--json").stdout)


def test_weights_loss_and_bootstrap_are_passed_on(scan: ontogeny.Scan) -> None:
    found = json.loads(run(*METRIC, "--weights", "sequences", "--loss", "huber", "--bootstrap", 5, "--json").stdout)
    expected = fit(scan, "top_activation", weights="sequences", loss="huber", bootstrap=5)
    assert (found["weights"], found["loss"], found["bootstrap"]) == ("sequences", "huber", 5)
    for i, row in enumerate(found["fits"]):
        assert row["r2"] == pytest.approx(float(expected["r2"][i]))
        assert row["final_value_boot_low"] == pytest.approx(float(expected["final_value_boot_low"][i]))
    table = run(*METRIC, "--bootstrap", 5, columns=120).stdout
    assert "bootstrap over sequences, 5 times" in table
    boot = fit(scan, "top_activation", level=None, bootstrap=5).sel(depth=6)
    assert f"[{float(boot['final_value_boot_low']):.3g}, {float(boot['final_value_boot_high']):.3g}]" in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--against", "everyone"), "expected --against rivals, got --against everyone"),
        (("--weights", "tokens"), "equal or sequences, got 'tokens'"),
        (("--loss", "absolute"), "squares or huber, got 'absolute'"),
        (("--level", "95"), "between 0 and 1, such as 0.95, got 95.0"),
        (("--bootstrap", "-1"), "--bootstrap"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(arguments: tuple[str, ...], says: str) -> None:
    result = run(*METRIC, *arguments, columns=200)
    assert result.exit_code == 2
    assert says in result.stderr and "Traceback" not in result.output
