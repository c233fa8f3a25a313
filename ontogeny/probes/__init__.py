"""What one checkpoint shows: each probe turns what forward passes left behind into named measurements."""

from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.registry import DEFINITIONS, EXPERIMENTS, PROBES, Probes, make_probes

__all__ = ["DEFINITIONS", "EXPERIMENTS", "PROBES", "Probe", "ProbeSettings", "Probes", "make_probes"]
