"""Curves over training: what emerged, when, and how well the data say so. Never imports torch."""

from ontogeny.fitting.curve import EmergenceCurve, OriginalParameters
from ontogeny.fitting.emergence import EmergenceFit, Regime, Verdict, fit_curve, fit_curves
from ontogeny.fitting.events import events
from ontogeny.fitting.scan import evaluate, fit

__all__ = [
    "EmergenceCurve",
    "EmergenceFit",
    "OriginalParameters",
    "Regime",
    "Verdict",
    "evaluate",
    "events",
    "fit",
    "fit_curve",
    "fit_curves",
]
