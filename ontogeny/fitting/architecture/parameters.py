"""Predictors of the published parameters (A, lambda, gamma, t0, K), for comparison with arXiv 2508.03616.

Two curves that look alike may have parameters orders of magnitude apart, so that being near in these says little about
the curve. They are here to be compared, and are never shipped: their state is not plain numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ontogeny.errors import OntogenyError
from ontogeny.fitting.architecture.features import CONFOUNDERS, PUBLISHED, columns
from ontogeny.fitting.architecture.folds import Split
from ontogeny.fitting.curve import EmergenceCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import ModelCurves

    Array = NDArray[np.float64]

PARAMETERS = ("A", "lambda", "gamma", "t0", "K")
SIGNED = (0, 4)  # A and K may be negative
LARGEST = 250.0  # of a transformed parameter: beyond it products of parameters overflow, and the fit is left out
LEAST_CURVES = 10
INNER_FOLDS = 3
SEED = 0


class ParameterPredictor:
    """A regressor of scikit-learn from the features to the transformed parameters of curves fitted one by one.

    Transforms: asinh of A and K, which may be negative, the logarithm of lambda, gamma and t0; then standardised. What
    is foretold stays within the range of the training curves' parameters. `grid` is searched by cross-validation with
    `split` on the training models alone (of the folds, INNER_FOLDS).
    """

    def __init__(self, make: Callable[[], Any], grid: dict[str, list[Any]], used: Sequence[str], split: Split) -> None:
        self.make, self.grid, self.used, self.split = make, grid, used, split

    def fit(self, models: Sequence[ModelCurves]) -> None:
        """Raises OntogenyError where fewer than LEAST_CURVES have published parameters."""
        from sklearn.model_selection import GridSearchCV

        rows, targets, places = _training(models)
        if len(rows) < LEAST_CURVES:
            raise OntogenyError(
                f"{len(rows)} of the training curves have published parameters: expected {LEAST_CURVES} or more"
            )
        self.lowest, self.highest = targets.min(axis=0), targets.max(axis=0)
        self.centre, spread = targets.mean(axis=0), targets.std(axis=0)
        self.spread = np.where(spread > 0, spread, 1.0)
        standard = (targets - self.centre) / self.spread
        used = rows[:, columns(self.used)]
        splits = _inner(self.split(models), places) if self.grid else []
        with _alone():
            if splits:
                search = GridSearchCV(self.make(), self.grid, scoring="neg_mean_squared_error", cv=splits)
                self.estimator = search.fit(used, standard).best_estimator_
            else:
                self.estimator = self.make().fit(used, standard)

    def parameters(self, features: Array) -> Array:
        """The transformed PARAMETERS for each row of FEATURES, (m, 5)."""
        with _alone():
            standard = self.estimator.predict(features[:, columns(self.used)])
        return np.clip(standard * self.spread + self.centre, self.lowest, self.highest)

    def curves(self, features: Array) -> list[EmergenceCurve]:
        found = []
        for row in self.parameters(features):
            lambda_, gamma, t0 = np.exp(row[1:4])
            found.append(EmergenceCurve.from_original(np.sinh(row[0]), lambda_, gamma, t0, np.sinh(row[4])))
        return found


def transformed(model: ModelCurves) -> Array:
    """The transformed PARAMETERS of the curves fitted to `model`, (m, 5); NaN where there are none that can be used."""
    return np.array([_transform(curve) for curve in model.with_fits().fitted or ()]).reshape(-1, len(PARAMETERS))


def ridge(split: Split) -> ParameterPredictor:
    """Linear regression with a penalty on squared weights."""

    def make() -> Any:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), Ridge())

    return ParameterPredictor(make, {"ridge__alpha": [0.1, 1.0, 10.0, 100.0]}, (*PUBLISHED, *CONFOUNDERS), split)


def forest(split: Split) -> ParameterPredictor:
    """A random forest."""

    def make() -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(100, random_state=SEED)

    return ParameterPredictor(make, {"min_samples_leaf": [1, 4]}, (*PUBLISHED, *CONFOUNDERS), split)


def boosting(split: Split) -> ParameterPredictor:
    """Gradient boosting on histograms, one for each parameter."""

    def make() -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.multioutput import MultiOutputRegressor

        one = HistGradientBoostingRegressor(max_iter=50, min_samples_leaf=5, early_stopping=False, random_state=SEED)
        return MultiOutputRegressor(one)

    return ParameterPredictor(make, {"estimator__learning_rate": [0.03, 0.1]}, (*PUBLISHED, *CONFOUNDERS), split)


def gaussian_process(split: Split) -> ParameterPredictor:
    """A Gaussian process on the physical features, without confounders; its kernel by marginal likelihood."""

    def make() -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.1)
        return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, random_state=SEED))

    return ParameterPredictor(make, {}, PUBLISHED, split)


@contextmanager
def _alone() -> Iterator[None]:
    """On one thread, as teams of them cost more than such small data, and without a word on a kernel's wide range."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _transform(curve: EmergenceCurve | None) -> list[float]:
    original = curve.original() if curve is not None else None
    if original is None:
        return [np.nan] * len(PARAMETERS)
    row = [float(np.arcsinh(x) if place in SIGNED else np.log(x)) for place, x in enumerate(original)]
    return row if max(map(abs, row)) < LARGEST else [np.nan] * len(PARAMETERS)


def _training(models: Sequence[ModelCurves]) -> tuple[Array, Array, dict[tuple[str, int], int]]:
    """Features and targets of the curves that have parameters, and the place of each by model and layer."""
    rows: list[Array] = []
    targets: list[Array] = []
    places: dict[tuple[str, int], int] = {}
    for model in models:
        own = transformed(model)
        for place in np.flatnonzero(np.isfinite(own).all(axis=1)):
            places[model.name, int(model.layers[place])] = len(rows)
            rows.append(model.features[place])
            targets.append(own[place])
    return np.array(rows), np.array(targets), places


def _inner(folds: list[Any], places: dict[tuple[str, int], int]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The first folds as indices of training rows, without those that leave a side empty."""

    def indices(side: Sequence[ModelCurves]) -> NDArray[np.intp]:
        keys = [(model.name, int(layer)) for model in side for layer in model.layers]
        return np.array([places[key] for key in keys if key in places], dtype=np.intp)

    found = [(indices(train), indices(test)) for train, test in folds]
    return [(train, test) for train, test in found if train.size and test.size][:INNER_FOLDS]
