"""What a predictor attends to, where that was planted."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting.architecture.basis import grid_steps
from ontogeny.fitting.architecture.depth_only import Null, Scale
from ontogeny.fitting.architecture.features import FEATURES, columns
from ontogeny.fitting.architecture.importance import dependence, permutation, shapley
from tests.fitting.architecture.families import STEPS, archs, depth_only, family


@pytest.fixture(scope="module")
def models():
    return family(archs(6, 2), depth_only)


@pytest.fixture(scope="module")
def null(models) -> Null:
    null = Null()
    null.fit(models)
    return null


def test_the_null_attends_to_depth_alone(null, models) -> None:
    found = permutation(null, models)
    assert list(found.feature.values) == list(FEATURES)
    assert float(found.importance.sel(feature="l/(L-1)")) > 0.05
    others = found.importance.drop_sel(feature="l/(L-1)")
    np.testing.assert_allclose(others, 0, atol=1e-12)
    assert found.equals(permutation(null, models)) and not found.equals(permutation(null, models, seed=1))


def test_dependence_on_a_feature_is_the_mean_prediction_at_it(models) -> None:
    scale = Scale()
    scale.fit([type(one)(one.name, one.arch, one.layers, one.steps, one.values * one.arch.width) for one in models])
    found = dependence(scale, models, "log d", points=3)
    assert found.shape == (3, grid_steps(STEPS[-1]).size)
    rows = np.concatenate([model.features for model in models])
    rows[:, columns(["log d"])] = found.value.values[1]
    expected = np.mean([curve(found.step.values) for curve in scale.curves(rows)], axis=0)
    np.testing.assert_allclose(found.values[1], expected, rtol=1e-9)
    with pytest.raises(UsageError, match="one of l/"):
        dependence(scale, models, "charm")
    with pytest.raises(UsageError, match="rotary does not"):
        dependence(scale, models, "rotary")


def test_shapley_values_need_the_extra(null, models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(OntogenyError, match=r'pip install "ontogeny\[shap\]"'):
        shapley(null, models, step=1000)


def test_shapley_values_are_labelled(null, models, monkeypatch: pytest.MonkeyPatch) -> None:
    def explainer(function, background):
        return lambda rows: SimpleNamespace(values=function(rows)[:, None] * np.ones(rows.shape[1]))

    monkeypatch.setitem(sys.modules, "shap", SimpleNamespace(Explainer=explainer))
    found = shapley(null, models, step=1000)
    expected = [float(curve(1000)) for model in models for curve in null.curves(model.features)]
    assert list(found.feature.values) == list(FEATURES)
    np.testing.assert_allclose(found.sel(feature="H/d"), expected)
