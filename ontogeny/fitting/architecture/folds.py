"""Which curves are held out, and how far a predicted curve is from a measured one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import CurvePredictor, ModelCurves

    Array = NDArray[np.float64]

Fold = tuple["list[ModelCurves]", "list[ModelCurves]"]
Split = Callable[["Sequence[ModelCurves]"], list[Fold]]

RANDOM_FOLDS = 5
ERROR_LARGEST = 1e6  # ranges: what is further off counts as this, so that means stay finite


def leave_one_model_out(models: Sequence[ModelCurves]) -> list[Fold]:
    """Each model held out in turn, all its curves together; none where there is but one."""
    if len(models) < 2:
        return []
    return [([one for one in models if one is not held], [held]) for held in models]


def random_split(models: Sequence[ModelCurves], seed: int = 0) -> list[Fold]:
    """Curves dealt at random into RANDOM_FOLDS: layers of one model are on both sides, so what is held out leaks."""
    counts = [len(model.layers) for model in models]
    total = sum(counts)
    if total < RANDOM_FOLDS:
        return []
    fold_of = np.random.default_rng(seed).permutation(np.arange(total) % RANDOM_FOLDS)
    by_model = np.split(fold_of, np.cumsum(counts)[:-1])
    return [
        (_rows(models, [own != fold for own in by_model]), _rows(models, [own == fold for own in by_model]))
        for fold in range(RANDOM_FOLDS)
    ]


def curve_errors(predictor: CurvePredictor, model: ModelCurves, floor: float = -np.inf) -> Array:
    """The root mean square error at the measured steps of each curve of `model`, in units of its range, (m,).

    Predicted values below `floor` count as `floor`.
    """
    return errors_of(predicted_values(predictor, model, floor), model)


def predicted_values(predictor: CurvePredictor, model: ModelCurves, floor: float = -np.inf) -> Array:
    """What `predictor` foretells of `model` at its measured steps, (m, n), no less than `floor`."""
    values = np.stack([curve(model.steps) for curve in predictor.curves(model.features)])
    return np.asarray(np.maximum(values, floor))


def errors_of(predicted: Array, model: ModelCurves) -> Array:
    """The errors of `predicted` (m, n), as `curve_errors` has them."""
    off = np.clip((predicted - model.values) / model.ranges[:, None], -ERROR_LARGEST, ERROR_LARGEST)
    return np.asarray(np.sqrt((off**2).mean(axis=1)))


def _rows(models: Sequence[ModelCurves], kept: Sequence[NDArray[np.bool_]]) -> list[ModelCurves]:
    return [model.subset(np.flatnonzero(own)) for model, own in zip(models, kept, strict=True) if own.any()]
