"""From evidence to an audit: each checkpoint's flags, and what is to say of the series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ontogeny.dynamics.audit.evidence import Entry, Evidence
from ontogeny.dynamics.audit.flags import (
    DTYPE,
    DUPLICATE,
    ORDER,
    TREND,
    duplicates,
    is_idle,
    named,
    off_the_trend,
    other_dtype,
    out_of_order,
    same_weights,
    shared_parts,
)
from ontogeny.dynamics.audit.grid import missing_steps
from ontogeny.dynamics.checkpoint import UNKNOWN_STEP

OK, UNAUDITED = "ok", "unaudited"


@dataclass(frozen=True)
class Audit:
    """What came of an audit.

    `flags` maps a checkpoint's name to its flags and the reason for each; who is not in it has none. `findings` are
    sentences on the series, which flag no checkpoint. `examined` names the checkpoints that could be compared,
    `measured` those whose weights were, as a scan does, and not only their files.
    """

    evidence: Evidence
    flags: Mapping[str, Mapping[str, str]]
    findings: tuple[str, ...]
    examined: frozenset[str]
    measured: frozenset[str]

    def __repr__(self) -> str:
        found = f"{len(self.evidence.entries)} checkpoints, {len(self.flags)} flagged, {len(self.findings)} findings"
        return f"<Audit of {self.evidence.source}: {found}>"

    def verdict(self, name: str) -> str:
        """The checkpoint's flags, joined by commas; `ok` without any, `unaudited` where it could not be compared."""
        if name in self.flags:
            return ", ".join(self.flags[name])
        return OK if name in self.examined else UNAUDITED

    def reason(self, name: str) -> str:
        """Why the checkpoint is flagged; empty where it is not."""
        return "; ".join(self.flags.get(name, {}).values())


def examine(evidence: Evidence, projections: Mapping[str, np.ndarray] | None = None) -> Audit:
    """Audit the checkpoints of `evidence`, with the projections of their weights where these were measured.

    Compared with others are checkpoints whose files or whose projections are known, if there are two or more.
    """
    entries = sorted(evidence.entries, key=lambda entry: entry.step)
    measured = _matrix(entries, projections or {})
    groups = same_weights(entries, measured)
    main = evidence.main
    of_main = None if main is None else main.digest
    repeated = shared_parts(entries, of_main) | duplicates(entries, groups, of_main)
    disordered = out_of_order(entries)
    unplaced = (place for place, entry in enumerate(entries) if entry.step == UNKNOWN_STEP)
    strayed = off_the_trend(measured, {*repeated, *disordered, *unplaced})
    found = {
        DUPLICATE: repeated,
        ORDER: disordered,
        TREND: strayed or {},
        DTYPE: other_dtype(entries),
    }
    flags: dict[str, dict[str, str]] = {}
    for place, entry in enumerate(entries):
        own = {flag: reasons[place] for flag, reasons in found.items() if place in reasons}
        if own:
            flags[entry.name] = own
    known = [place for place, entry in enumerate(entries) if entry.digest or np.isfinite(measured[place]).any()]
    examined = frozenset(entries[place].name for place in known) if len(known) > 1 else frozenset()
    findings = _findings(evidence, entries, groups)
    if strayed is None:
        findings.append("the weights follow no one path, so that none was judged to be off trend")
    return Audit(evidence, flags, tuple(findings), examined, frozenset(projections or ()))


def _matrix(entries: Sequence[Entry], projections: Mapping[str, np.ndarray]) -> np.ndarray:
    """The projections (checkpoints, projections), NaN where one has none, and one column of NaN where none has any."""
    width = next((len(values) for values in projections.values()), 1)
    return np.stack([np.asarray(projections.get(entry.name, np.full(width, np.nan)), float) for entry in entries])


def _findings(evidence: Evidence, entries: Sequence[Entry], groups: Sequence[Sequence[int]]) -> list[str]:
    findings = _on_main(entries, evidence.main)
    missing, grid = missing_steps(evidence.source, [entry.step for entry in entries])
    if missing and evidence.whole:
        findings.append(f"missing steps: {named([str(step) for step in missing])}, by {grid}")
    for group in groups:
        if is_idle(entries, group):
            same = ", ".join(entries[place].name for place in group)
            findings.append(f"{same} have the same weights, as happens before training moves them: none is flagged")
    dtypes = Counter(entry.dtype for entry in entries if entry.dtype is not None)
    if len(dtypes) > 1:
        counts = ", ".join(f"{dtype} ({count})" for dtype, count in sorted(dtypes.items()))
        findings.append(f"stored in several precisions: {counts}")
    return findings


def _on_main(entries: Sequence[Entry], main: Entry | None) -> list[str]:
    """`differs from main`: the last step's files are not those of `main`.

    A note, no flag: some series end with an annealed or averaged model in `main` (OLMo), or `main` is another run.
    """
    last = entries[-1]
    if main is None or main.digest is None or last.digest is None or main.digest == last.digest:
        return []
    holders = [entry.name for entry in entries if entry.digest == main.digest]
    instead = f", which holds those of {named(holders)}" if holders else ""
    return [f"differs from main: the weights of the last step, {last.name}, are not those of main{instead}"]
