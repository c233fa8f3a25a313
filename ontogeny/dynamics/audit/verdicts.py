"""The audit's verdicts, laid over the dataset of a scan.

A scan calls `gather_into(path, series, names)` (the whole series, the names of the selected checkpoints) while it holds
the folder, before it measures; `open_scan` then lays the verdicts over what it opens. A scan in memory calls
`evidence = gather(series, names)` and returns `Scan(with_verdicts(join_checkpoints(parts), evidence), failures)`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from ontogeny.dynamics.audit.evidence import Entry, Evidence
from ontogeny.dynamics.audit.examine import Audit, examine

PROJECTION = "weight_projection"
NOT_GATHERED = "no evidence of it was gathered"


def with_verdicts(dataset: xr.Dataset, evidence: Evidence) -> xr.Dataset:
    """`dataset` with the `verdict` and the `verdict_reason` of each checkpoint, and the attribute `audit`: findings."""
    audit = audit_dataset(dataset, evidence)
    names = [str(name) for name in dataset["checkpoint"].values]
    coordinates = {
        "verdict": [audit.verdict(name) for name in names],
        "verdict_reason": [audit.reason(name) for name in names],
    }
    labelled = dataset.assign_coords(
        {name: ("checkpoint", np.array(values, dtype=object)) for name, values in coordinates.items()}
    )
    return labelled.assign_attrs(audit="; ".join(audit.findings)) if audit.findings else labelled


def audit_dataset(dataset: xr.Dataset, evidence: Evidence) -> Audit:
    """The audit of a scan's evidence together with what it measured of the weights.

    Measured checkpoints that the evidence does not know are compared by their weights alone.
    """
    names = [str(name) for name in dataset["checkpoint"].values]
    listed = {entry.name for entry in evidence.entries}
    labels = zip(names, dataset["step"].values, dataset["tokens"].values, strict=True)
    others = [
        Entry(name, int(step), None if np.isnan(tokens) else float(tokens), problem=NOT_GATHERED)
        for name, step, tokens in labels
        if name not in listed
    ]
    evidence = replace(evidence, entries=(*evidence.entries, *others))
    if PROJECTION not in dataset:
        return examine(evidence)
    projections = dataset[PROJECTION].isel(checkpoint=slice(None)).values  # a copy: the dataset itself stays lazy
    return examine(evidence, dict(zip(names, projections, strict=True)))
