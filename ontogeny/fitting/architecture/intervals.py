"""Bands around predicted curves, from how far off models were that had been left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.errors import UsageError
from ontogeny.fitting.architecture.folds import leave_one_model_out
from ontogeny.fitting.architecture.validation import Make, held, residuals_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import CurvePredictor, ModelCurves

    Array = NDArray[np.float64]

LEVEL = 0.9


def highest_level(models: int) -> float:
    """What can be promised with so many models: n / (n + 1).

    The next model is as likely to be the farthest off as any of the n + 1, and how far off it would then be is unknown.
    """
    return models / (models + 1)


def half_width(residuals: Sequence[Array], level: float) -> float:
    """The quantile of residuals, one array a model, that covers a point of the next model with probability `level`.

    Each model has weight 1 / (n + 1), shared among its points, and infinity has the rest: conformal prediction with
    models, not points, exchangeable (arXiv 2306.06342). Raises UsageError for a level above `highest_level`.
    """
    highest = highest_level(len(residuals))
    if not 0 < level <= highest + 1e-12:
        raise UsageError(
            f"expected a level above 0 and up to {highest:.2f}, as {len(residuals)} models were left out in turn; "
            f"got {level:g}"
        )
    values = np.concatenate([one.ravel() for one in residuals])
    weights = np.concatenate([np.full(one.size, 1 / one.size) for one in residuals]) / (len(residuals) + 1)
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(reached, level - 1e-12)), values.size - 1)])


def coverage(make: Make, models: Sequence[ModelCurves], level: float, floor: float = -np.inf) -> dict[str, float]:
    """The share of each model's points inside the band made without that model, by name.

    A band needs residuals of the others, so each of them is left out besides; `level` may not be above that of one
    model fewer.
    """
    found = {}
    for train, (model,) in leave_one_model_out(models):
        width = half_width(residuals_of(make, train, floor), level)
        found[model.name] = float((_residuals(make(leave_one_model_out), train, model, floor) <= width).mean())
    return found


def covered(predictor: CurvePredictor, model: ModelCurves, width: float, last_step: float, floor: float) -> float:
    """The share of `model`'s points inside the band of `width` around the curves of a trained predictor."""
    return float((held(predictor, model, last_step, floor).residuals <= width).mean())


def _residuals(predictor: CurvePredictor, train: Sequence[ModelCurves], model: ModelCurves, floor: float) -> Array:
    predictor.fit(train)
    return held(predictor, model, max(float(one.steps.max()) for one in train), floor).residuals
