"""What a predictor attends to: permutation importance, partial dependence, and Shapley values with the extra `shap`.

Features of architectures that were built by one rule go together (d, H, L, and every ratio of them): what is taken from
one of them another may carry, and a changed one alone may be an architecture that nobody would build.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting.architecture.basis import grid_steps
from ontogeny.fitting.architecture.features import FEATURES
from ontogeny.fitting.architecture.folds import errors_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import CurvePredictor, ModelCurves

    Array = NDArray[np.float64]

REPEATS = 10


class _Estimator:
    """A trained predictor as scikit-learn sees one: from rows of FEATURES to the curves at `steps`, (m, n)."""

    _estimator_type = "regressor"

    def __init__(self, predictor: CurvePredictor, steps: Array) -> None:
        self.predictor, self.steps = predictor, steps
        self.fitted_ = True

    def fit(self, *_: Any) -> _Estimator:
        return self

    def predict(self, features: Array) -> Array:
        return np.stack([curve(self.steps) for curve in self.predictor.curves(np.asarray(features))])

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import RegressorTags, Tags, TargetTags

        return Tags(estimator_type="regressor", target_tags=TargetTags(required=False), regressor_tags=RegressorTags())


def permutation(predictor: CurvePredictor, models: Sequence[ModelCurves], seed: int = 0) -> xr.Dataset:
    """How much the error on the curves of `models` grows when one feature is shuffled among them all.

    `importance` and its `spread` over REPEATS, (feature,), in units of the curves' ranges: the root mean square error
    then, less that without. Take models that the predictor was not trained on, to learn what generalises.
    """
    from sklearn.inspection import permutation_importance

    rows = np.concatenate([model.features for model in models])
    owner = np.concatenate([np.full(len(model.layers), place) for place, model in enumerate(models)])

    def scorer(estimator: _Estimator, features: Array, _: Array) -> float:
        squares = []
        for place, model in enumerate(models):
            curves = estimator.predictor.curves(features[owner == place])
            squares.append(errors_of(np.stack([curve(model.steps) for curve in curves]), model) ** 2)
        return -float(np.sqrt(np.concatenate(squares).mean()))

    estimator = _Estimator(predictor, grid_steps(_last(models)))
    found = permutation_importance(estimator, rows, owner, scoring=scorer, n_repeats=REPEATS, random_state=seed)
    described = {"long_name": "growth of the error when the feature is shuffled", "units": "measured range"}
    return xr.Dataset(
        {
            "importance": ("feature", found.importances_mean, described),
            "spread": ("feature", found.importances_std, {**described, "long_name": "standard deviation of it"}),
        },
        {"feature": list(FEATURES)},
    )


def dependence(
    predictor: CurvePredictor, models: Sequence[ModelCurves], feature: str, points: int = 20
) -> xr.DataArray:
    """The mean predicted curve over all layers of `models` with `feature` set to each of `points` values.

    Over (value, step); the values run from the lowest to the highest that occurs. Raises UsageError for a feature that
    there is not, or that is the same everywhere.
    """
    from sklearn.inspection import partial_dependence

    if feature not in FEATURES:
        raise UsageError(f"expected a feature, one of {', '.join(FEATURES)}; got {feature!r}")
    place = FEATURES.index(feature)
    rows = np.concatenate([model.features for model in models])
    if np.ptp(rows[:, place]) == 0:
        raise UsageError(f"expected a feature that differs between the layers of the models, {feature} does not")
    values = np.linspace(rows[:, place].min(), rows[:, place].max(), points)
    steps = grid_steps(_last(models))
    found = partial_dependence(
        _Estimator(predictor, steps), rows, [place], method="brute", custom_values={place: values}
    )
    return xr.DataArray(
        found["average"].T,
        {"value": values, "step": steps},
        ("value", "step"),
        "predicted",
        {"long_name": f"mean predicted curve with {feature} held at a value"},
    )


def shapley(predictor: CurvePredictor, models: Sequence[ModelCurves], step: float) -> xr.DataArray:
    """Shapley values of the predicted curves at `step`, (curve, feature): what each adds to the mean prediction.

    By the package shap (arXiv 1705.07874), which the extra `shap` brings. Raises OntogenyError where it is not there.
    """
    try:
        import shap
    except ImportError as error:
        raise OntogenyError(
            'Shapley values need the package shap: install it with pip install "ontogeny[shap]"'
        ) from error
    rows = np.concatenate([model.features for model in models])
    estimator = _Estimator(predictor, np.array([float(step)]))
    explained = shap.Explainer(lambda features: estimator.predict(features)[:, 0], rows)(rows)
    return xr.DataArray(np.asarray(explained.values), {"feature": list(FEATURES)}, ("curve", "feature"), "shapley")


def _last(models: Sequence[ModelCurves]) -> float:
    return max(float(model.steps.max()) for model in models)
