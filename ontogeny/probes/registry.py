"""Every probe, by name: a new one is a file beside this and a line in the table."""

from __future__ import annotations

from collections.abc import Sequence

from ontogeny.errors import UsageError
from ontogeny.probes.massive import MassiveProbe
from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.sinks import SinksProbe
from ontogeny.probes.waivers import WaiversProbe

PROBES: dict[str, type[Probe]] = {"sinks": SinksProbe, "waivers": WaiversProbe, "massive": MassiveProbe}

# Goes up whenever a number of any probe changes its meaning: scans of different definitions do not mix.
DEFINITIONS = 1


def make_probes(names: Sequence[str] | None, settings: ProbeSettings) -> dict[str, Probe]:
    """The named probes, None for all, in the table's order. Raises UsageError for a name that is not in it."""
    wanted = list(PROBES) if names is None else names
    unknown = [name for name in wanted if name not in PROBES]
    if unknown or not wanted:
        raise UsageError(f"unknown probe {', '.join(unknown) or '(none given)'}: expected some of {', '.join(PROBES)}")
    return {name: PROBES[name](settings) for name in PROBES if name in wanted}
