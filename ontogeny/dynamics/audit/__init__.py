"""The audit of a series: are its checkpoints what they say they are.

Evidence is gathered before a scan, one listing or hash a checkpoint; with the projections of the weights that the scan
measures it gives each checkpoint a verdict. Verdicts are computed when a scan is opened, never stored: they depend on
`audit.json` and on the measurements, and on nothing else.
"""

from ontogeny.dynamics.audit.evidence import FILE, Entry, Evidence, read_evidence
from ontogeny.dynamics.audit.examine import Audit, examine
from ontogeny.dynamics.audit.gather import gather, gather_into
from ontogeny.dynamics.audit.verdicts import with_verdicts

__all__ = [
    "FILE",
    "Audit",
    "Entry",
    "Evidence",
    "examine",
    "gather",
    "gather_into",
    "read_evidence",
    "with_verdicts",
]
