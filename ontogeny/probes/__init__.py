"""What one checkpoint shows: each probe turns what forward passes left behind into named measurements."""

from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.registry import PROBES, make_probes

__all__ = ["PROBES", "Probe", "ProbeSettings", "make_probes"]
