"""Every probe, by name: a new one is a file beside this and a line in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ontogeny.errors import UsageError
from ontogeny.probes.ablation import AblationExperiment
from ontogeny.probes.capture import Trace
from ontogeny.probes.clusters import ClustersProbe
from ontogeny.probes.contexts import ContextsProbe
from ontogeny.probes.dormancy import DormancyExperiment
from ontogeny.probes.effective_beta import EffectiveBetaProbe
from ontogeny.probes.experiment import Experiment
from ontogeny.probes.massive import MassiveProbe
from ontogeny.probes.probe import Probe, ProbeSettings
from ontogeny.probes.random_tokens import RandomTokensExperiment
from ontogeny.probes.secondary import SecondarySinksProbe
from ontogeny.probes.sinks import SinksProbe
from ontogeny.probes.waiver_kinds import WaiverKindsExperiment
from ontogeny.probes.waivers import WaiversProbe
from ontogeny.probes.walks import WalksProbe

PROBES: dict[str, type[Probe]] = {
    "sinks": SinksProbe,
    "secondary": SecondarySinksProbe,
    "waivers": WaiversProbe,
    "massive": MassiveProbe,
    "contexts": ContextsProbe,
    "walks": WalksProbe,
    "clusters": ClustersProbe,
    "effective_beta": EffectiveBetaProbe,
}
# They run the model again, several times over.
EXPERIMENTS: dict[str, type[Experiment]] = {
    "waiver_kinds": WaiverKindsExperiment,
    "ablation": AblationExperiment,
    "dormancy": DormancyExperiment,
    "random_tokens": RandomTokensExperiment,
}
DEFAULT = ("sinks", "secondary", "waivers", "massive")

# Goes up whenever a number of any probe changes its meaning, or a probe gains one: scans of different definitions do
# not mix.
DEFINITIONS = 2


@dataclass(frozen=True)
class Probes:
    """The probes that were chosen: those that read traces, and those that run the model again."""

    traced: dict[str, Probe]
    experiments: dict[str, Experiment]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the tables' order."""
        return (*self.traced, *self.experiments)

    @property
    def needs(self) -> frozenset[str]:
        """What a trace must hold for those that read one."""
        return frozenset[str]().union(*(probe.needs for probe in self.traced.values()))


def make_probes(names: Sequence[str] | None, settings: ProbeSettings) -> Probes:
    """The named probes, None for the default ones. Raises UsageError for a name that is in no table."""
    wanted = _known(names)
    return Probes(
        traced={name: probe(settings) for name, probe in PROBES.items() if name in wanted},
        experiments={name: experiment(settings) for name, experiment in EXPERIMENTS.items() if name in wanted},
    )


def needs_of(names: Sequence[str] | None) -> frozenset[str]:
    """What a trace must hold for those of the named probes that read one. Raises UsageError likewise."""
    wanted = _known(names)
    return frozenset[str]().union(*(probe.needs for name, probe in PROBES.items() if name in wanted))


def readable(trace: Trace) -> list[str]:
    """The default probes, and those besides that find in the trace what they need."""
    return [name for name, probe in PROBES.items() if name in DEFAULT or probe.needs <= trace.available]


def _known(names: Sequence[str] | None) -> Sequence[str]:
    known = [*PROBES, *EXPERIMENTS]
    wanted = list(DEFAULT) if names is None else names
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise UsageError(f"unknown probe {', '.join(unknown) or '(none given)'}: expected some of {', '.join(known)}")
    return wanted
