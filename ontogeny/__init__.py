"""Ontogeny: how attention sinks and massive activations come to be while a transformer trains.

    import ontogeny

    scan = ontogeny.scan("pocket")
    fits = ontogeny.fit(scan)
    ontogeny.plots.emergence(scan, fits)

Public names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ontogeny.archspec import ArchSpec
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.version import __version__

if TYPE_CHECKING:
    from ontogeny import fitting, kernels, plots
    from ontogeny.bibliography import citations
    from ontogeny.dynamics.audit.source import audit
    from ontogeny.dynamics.checkpoint import Checkpoint
    from ontogeny.dynamics.observer import Observer
    from ontogeny.dynamics.opening import Scan, open_scan
    from ontogeny.dynamics.particles.simulate import simulate
    from ontogeny.dynamics.published import load_pythia
    from ontogeny.dynamics.scan import scan
    from ontogeny.dynamics.series import Series
    from ontogeny.dynamics.sources import open_series
    from ontogeny.dynamics.sources.state_dicts import open_state_dicts
    from ontogeny.fitting import EmergenceCurve, EmergenceFit, events, fit, lags, predict_mean_cosine
    from ontogeny.fitting.architecture import predict
    from ontogeny.probes.capture import Trace, attending, capture, trace_of, trace_of_arrays
    from ontogeny.probes.measure import measure

__all__ = [
    "ArchSpec",
    "Checkpoint",
    "EmergenceCurve",
    "EmergenceFit",
    "Observer",
    "OntogenyError",
    "Scan",
    "Series",
    "Trace",
    "UsageError",
    "__version__",
    "attending",
    "audit",
    "capture",
    "citations",
    "events",
    "fit",
    "fitting",
    "kernels",
    "lags",
    "load_pythia",
    "measure",
    "open_scan",
    "open_series",
    "open_state_dicts",
    "plots",
    "predict",
    "predict_mean_cosine",
    "scan",
    "simulate",
    "trace_of",
    "trace_of_arrays",
]

_HOMES = {
    "Checkpoint": "ontogeny.dynamics.checkpoint",
    "EmergenceCurve": "ontogeny.fitting",
    "EmergenceFit": "ontogeny.fitting",
    "Observer": "ontogeny.dynamics.observer",
    "Scan": "ontogeny.dynamics.opening",
    "Series": "ontogeny.dynamics.series",
    "Trace": "ontogeny.probes.capture",
    "attending": "ontogeny.probes.capture",
    "audit": "ontogeny.dynamics.audit.source",
    "capture": "ontogeny.probes.capture",
    "citations": "ontogeny.bibliography",
    "events": "ontogeny.fitting",
    "fit": "ontogeny.fitting",
    "lags": "ontogeny.fitting",
    "load_pythia": "ontogeny.dynamics.published",
    "measure": "ontogeny.probes.measure",
    "open_scan": "ontogeny.dynamics.opening",
    "open_series": "ontogeny.dynamics.sources",
    "open_state_dicts": "ontogeny.dynamics.sources.state_dicts",
    "predict": "ontogeny.fitting.architecture",
    "predict_mean_cosine": "ontogeny.fitting",
    "scan": "ontogeny.dynamics.scan",
    "simulate": "ontogeny.dynamics.particles.simulate",
    "trace_of": "ontogeny.probes.capture",
    "trace_of_arrays": "ontogeny.probes.capture",
}


def __getattr__(name: str) -> Any:
    if name in ("fitting", "kernels", "plots"):
        return import_module(f"ontogeny.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ontogeny' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
