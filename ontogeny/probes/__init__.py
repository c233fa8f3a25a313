"""What one checkpoint shows: each probe turns what forward passes left behind into named measurements."""

from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.registry import DEFINITIONS, PROBES, make_probes

__all__ = ["DEFINITIONS", "PROBES", "Probe", "ProbeSettings", "make_probes"]
