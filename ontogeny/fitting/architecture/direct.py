"""The whole curve as the target: how far a curve is from the null, linear in the features, by ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ontogeny.fitting.architecture.depth_only import Null
from ontogeny.fitting.architecture.features import CONFOUNDERS, PUBLISHED, columns
from ontogeny.fitting.architecture.folds import Split, errors_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import ModelCurves
    from ontogeny.fitting.curve import EmergenceCurve

    Array = NDArray[np.float64]

PENALTIES = tuple(float(penalty) for penalty in np.geomspace(1e-4, 1e3, 8))
USED = (*PUBLISHED, *CONFOUNDERS)


class Direct:
    """The null plus coefficients (k, c0, c1) linear in the features, fitted so that the error is that of the curves.

    The squared difference at the measured steps, in units of each curve's range, is minimised with a penalty on the
    squared weights (features standardised, columns scaled to their root mean square): an infinite one leaves the null.
    The penalty is chosen among PENALTIES by cross-validation with `split` on the training models alone.
    """

    null: Null
    centre: Array
    spread: Array
    weights: Array
    penalty: float

    def __init__(self, split: Split) -> None:
        self.split = split

    def fit(self, models: Sequence[ModelCurves]) -> None:
        """Choose the penalty, then fit with it on all of `models`."""
        self.penalty = PENALTIES[-1]
        folds = self.split(models)
        if folds:
            errors = np.zeros(len(PENALTIES))
            for train, test in folds:
                candidates = self._fitted(train, PENALTIES)
                for model in test:
                    errors += [(one**2).mean() for one in _errors_of_each(candidates, model)]
            self.penalty = PENALTIES[int(errors.argmin())]
        (best,) = self._fitted(models, [self.penalty])
        self.null, self.centre, self.spread, self.weights = best.null, best.centre, best.spread, best.weights

    def curves(self, features: Array) -> list[EmergenceCurve]:
        row = self._row(features)
        return self.null.basis.curves(self.null.coefficients(features) + row @ self.weights)

    def _row(self, features: Array) -> Array:
        """One and the standardised features, (m, p)."""
        standard = (features[:, columns(USED)] - self.centre) / self.spread
        return np.concatenate([np.ones((len(features), 1)), standard], axis=1)

    def _fitted(self, models: Sequence[ModelCurves], penalties: Sequence[float]) -> list[Direct]:
        """A predictor for each penalty: one system of normal equations, solved for each."""
        null = Null()
        null.fit(models)
        used = np.concatenate([model.features[:, columns(USED)] for model in models])
        centre, spread = used.mean(axis=0), used.std(axis=0)
        spread = np.where(spread > 1e-12 * np.abs(centre), spread, 1.0)
        start = Direct._of(self.split, null, centre, spread, np.zeros((1 + len(USED), 3)), penalties[0])
        designs = [null.basis.columns(model.steps) for model in models]
        scale = np.sqrt(np.mean([(design**2).mean(axis=0) for design in designs], axis=0))
        size = start.weights.size
        normal, target = np.zeros((size, size)), np.zeros(size)
        for model, design in zip(models, designs, strict=True):
            row, column = start._row(model.features), design / scale
            rest = model.values - null.coefficients(model.features) @ design.T
            weight = 1 / (model.ranges**2 * len(model.layers) * len(models) * model.steps.size)
            normal += np.kron((row * weight[:, None]).T @ row, column.T @ column)
            target += ((row * weight[:, None]).T @ rest @ column).ravel()
        unit = max(float(np.trace(normal)) / size, np.finfo(float).tiny)
        return [
            Direct._of(
                self.split,
                null,
                centre,
                spread,
                np.linalg.solve(normal + penalty * unit * np.eye(size), target).reshape(-1, 3) / scale,
                penalty,
            )
            for penalty in penalties
        ]

    @classmethod
    def _of(cls, split: Split, null: Null, centre: Array, spread: Array, weights: Array, penalty: float) -> Direct:
        one = cls(split)
        one.null, one.centre, one.spread, one.weights, one.penalty = null, centre, spread, weights, penalty
        return one

    def to_dict(self) -> dict[str, Any]:
        """The state as plain numbers, exact."""
        return {
            "null": self.null.to_dict(),
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "weights": self.weights.tolist(),
            "penalty": self.penalty,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Direct:
        """The predictor whose `to_dict` gave `state`; it foretells, and is not to be fitted again."""
        centre, spread, weights = (np.array(state[name]) for name in ("centre", "spread", "weights"))
        return cls._of(lambda _: [], Null.from_dict(state["null"]), centre, spread, weights, state["penalty"])


def _errors_of_each(candidates: Sequence[Direct], model: ModelCurves) -> list[Array]:
    """The errors of predictors that differ in their weights alone on the curves of `model`."""
    one = candidates[0]
    base, row = one.null.coefficients(model.features), one._row(model.features)
    design = one.null.basis.columns(model.steps)
    return [errors_of((base + row @ candidate.weights) @ design.T, model) for candidate in candidates]
