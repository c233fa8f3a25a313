"""Figures of a scan, and the report. Each function but the last returns a `plotly.graph_objects.Figure`."""

from __future__ import annotations

from ontogeny.plots.ablation import loss
from ontogeny.plots.effective_beta import effective_beta
from ontogeny.plots.emergence import emergence
from ontogeny.plots.events import events
from ontogeny.plots.lags import lags
from ontogeny.plots.massive import massive_ratio
from ontogeny.plots.metastability import metastability
from ontogeny.plots.predicted import predicted
from ontogeny.plots.report import write_report
from ontogeny.plots.simulation import lifetimes, phase_diagram, simulation
from ontogeny.plots.sinks import sink_heads, sink_rate
from ontogeny.plots.sites import massive_sites
from ontogeny.plots.waivers import waivers

__all__ = [
    "effective_beta",
    "emergence",
    "events",
    "lags",
    "lifetimes",
    "loss",
    "massive_ratio",
    "massive_sites",
    "metastability",
    "phase_diagram",
    "predicted",
    "simulation",
    "sink_heads",
    "sink_rate",
    "waivers",
    "write_report",
]
