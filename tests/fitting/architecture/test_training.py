"""What is trained, stored and shipped, and from which measurements."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ontogeny
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting.architecture import PREDICTORS, measured_curves
from ontogeny.fitting.architecture.folds import leave_one_model_out
from ontogeny.fitting.architecture.registry import SHIPPABLE
from ontogeny.fitting.architecture.stored import bundled, dumped, loaded
from ontogeny.fitting.architecture.train import BEGIN, END, write_tables
from ontogeny.fitting.architecture.training import train
from tests.fitting.architecture.families import archs, depth_only, family, planted


@pytest.fixture(scope="module")
def published() -> dict[str, ontogeny.Scan]:
    return {f"pythia-{size}": scan for size, scan in ontogeny.load_pythia().items()}


def test_the_published_curves_that_can_be_trained_on(published) -> None:
    models, left_out = measured_curves(published, "top_activation")
    assert {model.name: model.values.shape for model in models} == {
        "pythia-14m": (6, 7),
        "pythia-160m": (12, 12),
        "pythia-1b": (16, 7),
        "pythia-12b": (36, 15),
    }
    assert left_out == {"pythia-6.9b": "top_activation is known at 1 steps: expected 6 or more"}
    models, left_out = measured_curves(published, "massive_ratio")
    assert {model.name: model.values.shape for model in models} == {
        "pythia-14m": (6, 7),
        "pythia-160m": (12, 11),
        "pythia-1b": (16, 7),
    }
    assert set(left_out) == {"pythia-6.9b", "pythia-12b"}
    one = published["pythia-160m"].dataset.sel(step=8000, depth=5)
    ratio = one.top_activation.sel(rank=1).mean() / one.median_activation.mean()
    assert models[1].values[4, list(models[1].steps).index(8000)] == float(ratio)


def test_metrics_over_heads_are_refused(scan) -> None:
    with pytest.raises(UsageError, match="a metric over depth or layer"):
        measured_curves({"one": scan}, "sink_rate")


@pytest.mark.parametrize("metric", ["massive_ratio", "top_activation"])
def test_what_ships_is_what_the_bundled_curves_train(published, metric: str) -> None:
    shipped = bundled(metric)
    trained = train(measured_curves(published, metric)[0], metric, shipped.data)
    assert loaded(dumped({metric: trained}))[metric].predictor == shipped.predictor == "null"
    assert trained.half_width == pytest.approx(shipped.half_width) and trained.coverage == shipped.coverage
    assert trained.of_model == pytest.approx(shipped.of_model) and trained.error == pytest.approx(shipped.error)
    features = measured_curves(published, metric)[0][0].features
    for one, other in zip(trained.load().curves(features), shipped.load().curves(features), strict=True):
        steps = np.array([0.0, 10.0, 1000.0, 1e5])
        np.testing.assert_allclose(one(steps), other(steps), rtol=1e-6, atol=1e-6 * np.abs(other(steps)).max())


def test_what_beats_the_null_is_shipped() -> None:
    assert train(family(archs(7), planted), "top_activation", "synthetic").predictor == "direct"
    told = train(family(archs(8), depth_only, noise=0.1), "top_activation", "synthetic")
    assert told.predictor == "null" and told.level == pytest.approx(8 / 9) and told.coverage_level == 7 / 8
    with pytest.raises(OntogenyError, match="3 models or more to train on, got 2"):
        train(family(archs(2), depth_only), "top_activation", "synthetic")


@pytest.mark.parametrize("name", SHIPPABLE)
def test_a_predictor_comes_back_from_a_file_to_the_bit(name: str) -> None:
    models = family(archs(5), planted)
    predictor = PREDICTORS[name](leave_one_model_out)
    predictor.fit(models)
    again = SHIPPABLE[name].from_dict(json.loads(json.dumps(predictor.to_dict())))
    for model in models:
        assert again.curves(model.features) == predictor.curves(model.features)


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(OntogenyError, match="of format 1, got 7: train anew"):
        loaded('{"format": 7, "metrics": {}}')


def test_tables_go_between_the_marks(tmp_path) -> None:
    card = tmp_path / "card.md"
    card.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    write_tables(card, "new")
    assert card.read_text() == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    card.write_text("nothing")
    with pytest.raises(OntogenyError, match="to hold the lines"):
        write_tables(card, "new")
