"""Predictors on planted truths: what they find, what they may not claim, and that they repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.errors import OntogenyError
from ontogeny.fitting.architecture import PREDICTORS, tabulated
from ontogeny.fitting.architecture.basis import Basis
from ontogeny.fitting.architecture.depth_only import Null, Scale
from ontogeny.fitting.architecture.direct import Direct
from ontogeny.fitting.architecture.features import feature_matrix
from ontogeny.fitting.architecture.folds import curve_errors, leave_one_model_out, random_split
from ontogeny.fitting.architecture.parameters import PARAMETERS, ParameterPredictor, transformed
from ontogeny.fitting.architecture.registry import PARAMETRIC, SHIPPABLE
from ontogeny.fitting.architecture.validation import Score, chance, parameter_r2, score, winners
from tests.fitting.architecture.families import STEPS, arch, archs, curve_of, depth_only, family, planted


def test_curves_of_the_shared_shape_are_read_exactly() -> None:
    basis = Basis(beta=1e-4, tau0=30.0)
    values = np.stack([curve_of(h, K, 1e-4, 30.0)(STEPS) for h, K in ((3.0, 9.0), (-2.0, 40.0))])
    again = np.stack([curve(STEPS) for curve in basis.curves(basis.coefficients(STEPS, values))])
    np.testing.assert_allclose(again, values, atol=1e-9)


def test_the_null_is_the_mean_curve_at_that_relative_depth() -> None:
    two = family([arch(3, 64, 2), arch(5, 640, 20)], depth_only, noise=0, offset=1.0)
    null = Null()
    null.fit(two)
    (middle,) = null.curves(feature_matrix(arch(9, 128, 4), [4]))
    expected = (two[0].values[1] + two[1].values[2]) / 2
    np.testing.assert_allclose(middle(STEPS), expected, rtol=0.01, atol=0.02 * np.ptp(expected))
    (first,) = null.curves(feature_matrix(arch(1, 128, 4), [0]))
    expected = (two[0].values[0] + two[1].values[0]) / 2
    np.testing.assert_allclose(first(STEPS), expected, rtol=0.01, atol=0.02 * np.ptp(expected))


def test_scale_finds_a_power_of_the_width() -> None:
    models = family([arch(4, 64 * n, n) for n in (1, 2, 4, 8, 16)], depth_only, noise=0)
    grown = [
        type(model)(model.name, model.arch, model.layers, model.steps, model.values * model.arch.width**1.5)
        for model in models
    ]
    scale = Scale()
    scale.fit(grown[:4])
    assert scale.slope == pytest.approx(1.5)
    assert curve_errors(scale, grown[4]).max() < 0.02


def test_direct_beats_the_null_where_curves_follow_the_architecture() -> None:
    models = family(archs(9), planted)
    scores = tabulated(models, "top_activation", "leave one model out", ("null", "scale", "direct")).scores
    assert scores["direct"].overall < 0.3 * scores["null"].overall
    assert winners(scores)[0] == "direct"


def test_nothing_claims_to_beat_the_null_where_depth_alone_matters() -> None:
    for seed in range(4):
        models = family(archs(8, seed), depth_only, noise=0.1, offset=0.1, seed=seed)
        scores = tabulated(models, "top_activation", "leave one model out", SHIPPABLE).scores
        assert winners(scores) == []
        assert scores["direct"].overall > 0.8 * scores["null"].overall
        assert scores["null"].overall < 0.4


def test_four_models_cannot_show_anything() -> None:
    null = {f"{i}": 1.0 for i in range(4)}
    better = dict.fromkeys(null, 0.001)
    assert chance(better, null) == 1 / 16
    assert winners({"null": Score(null, {}), "a": Score(better, {}), "b": Score(null, {})}) == []
    null = {f"{i}": 1.0 for i in range(9)}
    assert winners({"null": Score(null, {}), "a": Score(dict.fromkeys(null, 0.1), {}), "b": Score(null, {})}) == ["a"]
    assert chance(null, null) == 1.0


def test_the_test_keeps_its_level_under_the_null() -> None:
    draw = np.random.default_rng(0)
    names = [str(i) for i in range(8)]
    gains = np.exp(draw.normal(size=(400, 8)))
    found = [chance(dict(zip(names, row, strict=True)), dict.fromkeys(names, 1.0)) <= 0.05 for row in gains]
    assert 0.02 < np.mean(found) < 0.08


def test_a_random_split_leaks() -> None:
    models = family(archs(8, 3), depth_only, offset=1.0)
    apart = score(Direct, models, leave_one_model_out).overall
    leaking = score(Direct, models, random_split).overall
    assert leaking < 0.6 * apart


def test_folds_hold_each_curve_out_once() -> None:
    models = family(archs(4), depth_only)
    every = {(model.name, int(layer)) for model in models for layer in model.layers}
    for split in (leave_one_model_out, random_split):
        held = [(one.name, int(layer)) for _, test in split(models) for one in test for layer in one.layers]
        assert len(held) == len(every) and set(held) == every
        for train, test in split(models):
            kept = {(one.name, int(layer)) for one in train for layer in one.layers}
            assert kept.isdisjoint((one.name, int(layer)) for one in test for layer in one.layers)
    assert {one.name for train, test in leave_one_model_out(models) for one in train if one in test} == set()
    assert leave_one_model_out(models[:1]) == [] and random_split([models[0].subset(np.arange(2))]) == []


@pytest.mark.parametrize("name", ["direct", "ridge"])
def test_tuning_sees_the_training_side_alone(name: str) -> None:
    models = [model.with_fits() for model in family(archs(5), planted)]
    asked = []

    def spying(given):
        asked.append({model.name for model in given})
        return leave_one_model_out(given)

    score(PREDICTORS[name], models, spying)
    everyone = {model.name for model in models}
    assert asked == [everyone, *(everyone - {model.name} for model in models)]


@pytest.mark.parametrize("name", PARAMETRIC)
def test_predictors_of_parameters_foretell_planted_ones(name: str) -> None:
    models = [model.with_fits() for model in family(archs(8, 1), planted, noise=0)]
    known = np.concatenate([transformed(model) for model in models])
    assert np.isfinite(known).all()

    def two_folds(models):
        return random_split(models)[:2]

    r2 = parameter_r2(PREDICTORS[name], models, two_folds)
    assert r2[PARAMETERS.index("K")] > 0.5
    again = parameter_r2(PREDICTORS[name], models, two_folds)
    assert r2 == again


def test_predictors_of_parameters_need_parameters() -> None:
    few = [model.with_fits() for model in family([arch(4, 64, 2)], depth_only)]
    with pytest.raises(OntogenyError, match="expected 10 or more"):
        PREDICTORS["ridge"](random_split).fit(few)
    assert tabulated(few * 2, "top_activation", "random", ["ridge"]).refused["ridge"].endswith("10 or more")


def test_what_is_foretold_stays_among_what_was_seen() -> None:
    models = [model.with_fits() for model in family(archs(6, 1), planted)]
    ridge = PREDICTORS["ridge"](leave_one_model_out)
    assert isinstance(ridge, ParameterPredictor)
    ridge.fit(models)
    far = ridge.parameters(feature_matrix(arch(400, 2**20, 1024), range(0, 400, 50)))
    known = np.concatenate([transformed(model) for model in models])
    known = known[np.isfinite(known).all(axis=1)]
    assert (far >= known.min(axis=0)).all() and (far <= known.max(axis=0)).all()


@pytest.mark.parametrize("name", SHIPPABLE)
def test_training_repeats_itself_to_the_bit(name: str) -> None:
    states = []
    for _ in range(2):
        predictor = PREDICTORS[name](leave_one_model_out)
        predictor.fit(family(archs(5), planted))
        states.append(predictor.to_dict())
    assert states[0] == states[1]
