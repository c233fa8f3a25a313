"""Every probe, by name: a new one is a file beside this and a line in the table."""

from __future__ import annotations

from collections.abc import Sequence

from ontogeny.errors import UsageError
from ontogeny.probes.massive import MassiveProbe
from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.sinks import SinksProbe
from ontogeny.probes.waivers import WaiversProbe

PROBES: dict[str, type[Probe]] = {"sinks": SinksProbe, "waivers": WaiversProbe, "massive": MassiveProbe}


def make_probes(names: Sequence[str], settings: ProbeSettings) -> dict[str, Probe]:
    """The named probes, in the order asked for. Raises UsageError for a name that is not in the table."""
    unknown = [name for name in names if name not in PROBES]
    if unknown or not names:
        raise UsageError(f"unknown probe {', '.join(unknown) or '(none given)'}: expected some of {', '.join(PROBES)}")
    return {name: PROBES[name](settings) for name in names}
