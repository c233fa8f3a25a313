"""`ontogeny.predict`, its figure and its command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import ontogeny
from ontogeny.cli.main import app
from ontogeny.dynamics.published.pythia import pythia_arch
from ontogeny.errors import UsageError
from ontogeny.fitting import evaluate
from ontogeny.fitting.architecture.stored import bundled

ANY = {"layers": 12, "width": 768, "heads": 12}


@pytest.mark.parametrize("metric", ["massive_ratio", "top_activation"])
def test_a_prediction_is_labelled_and_consistent(metric: str) -> None:
    found = ontogeny.predict(pythia_arch("410m"), metric=metric)
    assert dict(found.sizes) == {"depth": 24, "step": found.sizes["step"]}
    assert list(found.depth.values) == list(range(1, 25)) and list(found.layer.values) == list(range(24))
    assert found.step.values[0] == 0 and found.step.values[-1] == bundled(metric).last_step
    assert (found.predicted_low <= found.predicted).all() and (found.predicted <= found.predicted_high).all()
    assert (found.predicted_low >= bundled(metric).floor).all()
    curves = evaluate(found, found.step.values).transpose("depth", "step")
    np.testing.assert_allclose(np.maximum(curves, bundled(metric).floor), found.predicted, rtol=1e-6, atol=1e-6)
    for depth in (3, 12, 24):
        one = found.sel(depth=depth)
        assert float(one.final_value) == pytest.approx(float(curves.sel(depth=depth)[-1]), rel=1e-9)
        if np.isfinite(one.peak_step):
            assert float(one.peak_value) >= float(one.predicted.max()) - 1e-6
    for variable in found.data_vars.values():
        assert {"long_name", "units", "source"} <= set(variable.attrs)


def test_it_says_which_predictor_it_is_and_how_good() -> None:
    attributes = ontogeny.predict(pythia_arch("1b"), metric="top_activation").attrs
    assert attributes["predictor"] == "null" and "nothing was shown to beat it" in attributes["score"]
    assert attributes["error"] == attributes["null_error"] > 0.3
    assert attributes["level"] == 4 / 5 and "at level 0.75" in attributes["measured_coverage"]
    assert attributes["tokens_a_step"] == 2_097_152 and attributes["warning"] == ""


def test_one_layer_is_a_row_of_all() -> None:
    every, one = ontogeny.predict(ANY), ontogeny.predict(ANY, layer=5)
    assert one.drop_vars([]).equals(every.isel(depth=[5]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 8192, "heads": 64, "kv_heads": 64}, "d = 8192 is outside of 128 to 5120"),
        ({"layers": 80}, "L = 80 is outside of 6 to 36"),
        ({"ffn": 2048}, "d_ff/d = 1 is outside of 4 to 4"),
        ({"positional": "alibi"}, "positional encoding is alibi, not rotary"),
        ({"norm": "rms"}, "normalisation is rms, not layer"),
        ({"parallel_residual": False}, "parallel residual is False, not True"),
        ({"batch_tokens": 4_000_000}, "tokens a step is 4000000, not 2097152"),
        (
            {"dtype": None, "norm": "unknown"},
            "not stated, and taken to be as in training: normalisation, training dtype",
        ),
    ],
)
def test_an_architecture_unlike_the_training_is_warned_about(changed: dict[str, object], words: str) -> None:
    assert words in ontogeny.predict(replace(pythia_arch("1b"), **changed), metric="top_activation").attrs["warning"]


def test_a_metric_without_a_predictor_is_refused() -> None:
    with pytest.raises(UsageError, match="one of massive_ratio, top_activation; got 'entropy'"):
        ontogeny.predict(ANY, metric="entropy")


def test_the_figure_has_a_line_a_layer_and_one_band() -> None:
    found = ontogeny.predict(ANY)
    fig = ontogeny.plots.predicted(found)
    lines = [trace for trace in fig.data if trace.name.startswith("layer")]
    assert [trace.name for trace in lines] == [f"layer {i}" for i in range(12)]
    np.testing.assert_array_equal(lines[7].y, found.predicted.values[7])
    highest = int(found.predicted.values.max(axis=1).argmax())
    bands = [trace for trace in fig.data if trace.name.startswith("band")]
    np.testing.assert_array_equal(bands[0].y, found.predicted_high.values[highest])
    assert f"band of layer {highest}" in fig.layout.title.subtitle.text
    assert any("unlike the training" in note.text for note in fig.layout.annotations)
    with pytest.raises(UsageError, match=r"ontogeny\.predict gives"):
        ontogeny.plots.predicted(found.drop_vars("predicted_low"))


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *(str(one) for one in arguments)], env={"COLUMNS": "80"})


NUMBERS = ("--layers", 12, "--width", 768, "--heads", 12)


def test_the_command_fits_80_columns() -> None:
    result = run(*NUMBERS, "--metric", "top_activation")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80 and "…" not in result.stdout
    words = " ".join(result.stdout.split())
    assert "early peak" in words and "predictor: the null" in words and "warning: unlike the training models" in words
    assert "not stated, and taken to be as in training: positional encoding" in words


def test_the_command_prints_json_and_draws(tmp_path) -> None:
    page = tmp_path / "predicted.html"
    result = run(*NUMBERS, "--ffn", 3072, "--layer", 4, "--json", "--plot", page)
    found = json.loads(result.stdout)
    (curve,) = found["curves"]
    assert curve["layer"] == 4 and found["arch"]["ffn"] == 3072 and found["predictor"] == "null"
    assert len(curve["predicted"]) == len(found["steps"]) == len(curve["predicted_high"])
    assert "<script src" not in page.read_text() and "12 layers, width 768" in page.read_text()
    assert f"the plot is in {page}" in " ".join(run(*NUMBERS, "--plot", page).stdout.split("\n"))


def test_like_reads_the_config_alone(tmp_path) -> None:
    folder = tmp_path / "run" / "step10"
    folder.mkdir(parents=True)
    config = {"model_type": "gpt_neox", "num_hidden_layers": 3, "hidden_size": 256, "num_attention_heads": 8}
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 99, "intermediate_size": 512}))
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    found = json.loads(run("--like", tmp_path / "run", "--json").stdout)
    assert (found["arch"]["layers"], found["arch"]["width"], found["arch"]["ffn"]) == (3, 256, 512)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--layers, --width, --heads not given"),
        (("--layers", 2, "--width", 64), "--heads not given"),
        (("--like", "pocket", "--heads", 4), "got --like and --heads"),
        (("--layers", 2, "--width", 64, "--heads", 5), "heads that divide the width"),
        (("--layers", 0, "--width", 64, "--heads", 4), "positive whole number as layers"),
        ((*NUMBERS, "--layer", 12), "a layer from 0 to 11, got 12"),
        ((*NUMBERS, "--metric", "charm"), "got 'charm'"),
    ],
)
def test_wrong_usage_of_the_command(arguments, words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and words in result.stderr
