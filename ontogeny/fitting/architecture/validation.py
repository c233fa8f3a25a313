"""How well a predictor foretells curves that it has not seen, against the null, and what may be said of that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.architecture.basis import grid_steps
from ontogeny.fitting.architecture.features import feature_matrix
from ontogeny.fitting.architecture.folds import (
    ERROR_LARGEST,
    Fold,
    Split,
    errors_of,
    leave_one_model_out,
    predicted_values,
)
from ontogeny.fitting.architecture.parameters import ParameterPredictor, transformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.archspec import ArchSpec
    from ontogeny.fitting.architecture.measured import CurvePredictor, ModelCurves

    Array = NDArray[np.float64]

Make = Callable[[Split], "CurvePredictor"]

SIGNIFICANCE = 0.05
EXACT_MODELS = 16  # as many signs are enumerated; more models than that are more than a few thousand signs need
DRAWS = 20_000


@dataclass(frozen=True, eq=False)
class Held:
    """Curves of one model that were held out: `errors` (m,) in units of their ranges, and how far off each point is.

    `residuals` (m, n) are |measured - predicted| over the `magnitude` of the prediction.
    """

    model: str
    errors: Array
    residuals: Array


@dataclass(frozen=True, eq=False)
class Score:
    """Errors of a predictor on held-out curves, in units of each curve's range.

    `of_model` is the root mean square over the curves of a model; `overall` that over models, each counted once;
    `typical` their geometric mean, which one model that is far off does not decide. `residuals` are those of `Held`.
    """

    of_model: Mapping[str, float]
    residuals: Mapping[str, Array]

    @property
    def overall(self) -> float:
        return float(np.sqrt(np.mean(np.square(list(self.of_model.values())))))

    @property
    def typical(self) -> float:
        return float(np.exp(np.mean(np.log(np.maximum(list(self.of_model.values()), 1 / ERROR_LARGEST)))))


def score(make: Make, models: Sequence[ModelCurves], split: Split, floor: float = -np.inf) -> Score:
    """Train on each fold of `split` and score what it holds out; tuning sees the training side alone, by `split` too.

    Raises OntogenyError where a fold is too small for the predictor.
    """
    held = [one for fold in split(models) for one in _held_out(make(split), fold, floor)]
    names = list(dict.fromkeys(one.model for one in held))
    return Score(
        {name: float(np.sqrt(np.mean(_joined(held, name, "errors") ** 2))) for name in names},
        {name: _joined(held, name, "residuals") for name in names},
    )


def parameter_r2(make: Make, models: Sequence[ModelCurves], split: Split) -> list[float]:
    """R^2 of each of the transformed PARAMETERS over all held-out curves that have them: arXiv 2508.03616, Table 3."""
    found, true = [], []
    for train, test in split(models):
        predictor = make(split)
        if not isinstance(predictor, ParameterPredictor):
            raise TypeError("only predictors of parameters have an R^2 of parameters")
        predictor.fit(train)
        for model in test:
            own = transformed(model)
            known = np.isfinite(own).all(axis=1)
            true.append(own[known])
            found.append(predictor.parameters(model.features)[known])
    targets = np.concatenate(true)
    squares = ((np.concatenate(found) - targets) ** 2).sum(axis=0)
    return [float(one) for one in 1 - squares / ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)]


def chance(of_model: Mapping[str, float], null: Mapping[str, float]) -> float:
    """How probable it is that a predictor no better than the null does so well, one-sided, from held-out models.

    A sign-flip test of the logarithms of the ratios of errors, a model being the unit: with n models it is never below
    2 ** -n.
    """
    ratios = np.array([of_model[name] / null[name] for name in null])
    gains = -np.log(np.maximum(ratios, 1 / ERROR_LARGEST))
    if gains.size <= EXACT_MODELS:
        signs = np.array(list(itertools.product((1, -1), repeat=gains.size)))
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(DRAWS, gains.size))
        signs[0] = 1
    return float((signs @ gains >= gains.sum() * (1 - 1e-12) - 1e-12).mean())


def winners(scores: Mapping[str, Score], null: str = "null") -> list[str]:
    """The predictors that beat the null beyond chance, best first: lower errors at SIGNIFICANCE over their number."""
    rivals = [name for name in scores if name != null]
    better = [
        name
        for name in rivals
        if scores[name].overall < scores[null].overall
        and chance(scores[name].of_model, scores[null].of_model) <= SIGNIFICANCE / len(rivals)
    ]
    return sorted(better, key=lambda name: scores[name].typical)


def residuals_of(make: Make, models: Sequence[ModelCurves], floor: float = -np.inf) -> list[Array]:
    """The residuals of every model when it is left out, for intervals."""
    return list(score(make, models, leave_one_model_out, floor).residuals.values())


def _held_out(predictor: CurvePredictor, fold: Fold, floor: float) -> list[Held]:
    train, test = fold
    predictor.fit(train)
    return [held(predictor, model, max(float(one.steps.max()) for one in train), floor) for model in test]


def held(predictor: CurvePredictor, model: ModelCurves, last_step: float, floor: float) -> Held:
    """How a trained predictor does on `model`; its magnitude is that up to `last_step`."""
    predicted = predicted_values(predictor, model, floor)
    with np.errstate(over="ignore"):
        off = np.abs(model.values - predicted) / magnitude(predictor, model.arch, last_step, floor)
    return Held(model.name, errors_of(predicted, model), np.minimum(off, ERROR_LARGEST))


def magnitude(predictor: CurvePredictor, arch: ArchSpec, last_step: float, floor: float) -> float:
    """The largest magnitude of the curves foretold of all layers of `arch` up to `last_step`: the unit of intervals.

    One unit for a whole model: a layer foretold to be near zero may be one over which activations grow fast.
    """
    steps = grid_steps(last_step)
    curves = predictor.curves(feature_matrix(arch, range(arch.layers)))
    largest = max(float(np.abs(np.maximum(curve(steps), floor)).max()) for curve in curves)
    return max(largest, float(np.finfo(float).tiny))


def _joined(held: Sequence[Held], name: str, what: str) -> Array:
    return np.concatenate([getattr(one, what) for one in held if one.model == name])
