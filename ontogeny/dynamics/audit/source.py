"""The audit of whatever a user names: a source of checkpoints, or a scan."""

from __future__ import annotations

from pathlib import Path

from ontogeny.dynamics.audit.evidence import Evidence, read_evidence
from ontogeny.dynamics.audit.examine import Audit, examine
from ontogeny.dynamics.audit.gather import gather
from ontogeny.dynamics.audit.verdicts import audit_dataset
from ontogeny.dynamics.opening import open_scan
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources import open_series
from ontogeny.errors import OntogenyError


def audit(source: str | Path | Series) -> Audit:
    """Whether the checkpoints of `source` are what they say they are.

    `source` is anything that `ontogeny.scan` takes: the files of all its checkpoints are compared, by what the Hub
    lists of them or by their hashes on this machine, and nothing is downloaded. Or it is a scan's folder: then the
    weights that it measured are compared too, and nothing is read again.

    Raises OntogenyError where the source cannot be opened; a checkpoint whose files cannot be listed raises nothing.
    """
    if isinstance(source, Series):
        return examine(gather(source))
    folder = Path(source)
    if not (folder / "scan.json").is_file():
        return examine(gather(open_series(str(source))))
    evidence = read_evidence(folder)
    try:
        dataset = open_scan(folder).dataset
    except OntogenyError:
        if evidence is None:
            raise
        return examine(evidence)  # gathered, and nothing measured yet
    return audit_dataset(dataset, evidence or Evidence(str(dataset.attrs["source"]), ()))
