"""Curves over training: what emerged, when, and how well the data say so. Never imports torch."""

from ontogeny.fitting.comparison import compare_rivals
from ontogeny.fitting.curve import EmergenceCurve, OriginalParameters
from ontogeny.fitting.emergence import EmergenceFit, Interval, Regime, Verdict, fit_curve, fit_curves
from ontogeny.fitting.equiangular import equiangular_flow, predict_mean_cosine
from ontogeny.fitting.events import events
from ontogeny.fitting.lags import lags
from ontogeny.fitting.scan import evaluate, fit

__all__ = [
    "EmergenceCurve",
    "EmergenceFit",
    "Interval",
    "OriginalParameters",
    "Regime",
    "Verdict",
    "compare_rivals",
    "equiangular_flow",
    "evaluate",
    "events",
    "fit",
    "fit_curve",
    "fit_curves",
    "lags",
    "predict_mean_cosine",
]
