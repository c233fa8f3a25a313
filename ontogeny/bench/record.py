"""One line of a benchmark's table, and the check that comes before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ontogeny.bench.timing import Cost
from ontogeny.errors import OntogenyError


@dataclass(frozen=True)
class Record:
    """What a contender cost on a case: the median in milliseconds, its ratio to the baseline, MiB of tensors at once.

    `quartiles` are those of the times, in milliseconds.
    `bound_share` is the least possible time over the measured one, where the device's limits are known. Where nothing
    was measured `note` says why.
    """

    case: str
    contender: str
    milliseconds: float | None = None
    quartiles: tuple[float, float] | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    bound_share: float | None = None
    note: str = ""

    @classmethod
    def of(cls, case: str, contender: str, cost: Cost, baseline: Cost, least: float | None = None) -> Record:
        return cls(
            case,
            contender,
            milliseconds=cost.seconds * 1e3,
            quartiles=(cost.quartiles[0] * 1e3, cost.quartiles[1] * 1e3),
            ratio=cost.seconds / baseline.seconds,
            peak_mib=cost.peak_bytes / 2**20,
            bound_share=None if least is None else least / cost.seconds,
        )


def shown(milliseconds: float) -> str:
    """As a table shows it: what takes less than 10 ms to the microsecond."""
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.3f}"


def refuse_if_wrong(
    what: str,
    found: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    tolerance: float,
) -> None:
    """Raise OntogenyError where a statistic differs from the expected one by more than `tolerance` of its largest."""
    for name, value in found.items():
        truth = expected[name]
        if value is None or truth is None:
            continue
        truth = truth.double()
        error = float((value.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-300))
        if not error <= tolerance:
            raise OntogenyError(
                f"{what}: `{name}` is off by {error:.1e} of its largest value, expected at most {tolerance:.0e}: "
                "nothing is timed while a result is wrong"
            )
