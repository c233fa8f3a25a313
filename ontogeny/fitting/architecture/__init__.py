"""Curves to expect of an architecture, learned from measured ones, scored on models left out. Never imports torch."""

from ontogeny.fitting.architecture.foretelling import predict
from ontogeny.fitting.architecture.measured import CurvePredictor, ModelCurves, measured_curves
from ontogeny.fitting.architecture.registry import PREDICTORS
from ontogeny.fitting.architecture.training import tabulated

__all__ = ["PREDICTORS", "CurvePredictor", "ModelCurves", "measured_curves", "predict", "tabulated"]
