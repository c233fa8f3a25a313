"""Makes the Trace: forward passes of a model, hooked and reduced as they run."""

# The function is registered with transformers on import.
from ontogeny.probes.capture import attention as _registered  # noqa: F401
from ontogeny.probes.capture.arrays import trace_of_arrays
from ontogeny.probes.capture.attending import attending
from ontogeny.probes.capture.context import capture, evaluating, run_pass
from ontogeny.probes.capture.lens import trace_of
from ontogeny.probes.capture.trace import (
    ATTENTION,
    CAPTURED,
    CLUSTERS,
    CONTEXTS,
    LOGITS,
    NOT_ASKED,
    RESIDUAL,
    VALUES,
    WALKS,
    AttentionTrace,
    ClusterTrace,
    Pass,
    ResidualTrace,
    Trace,
)
from ontogeny.probes.capture.wanted import USUAL

__all__ = [
    "ATTENTION",
    "CAPTURED",
    "CLUSTERS",
    "CONTEXTS",
    "LOGITS",
    "NOT_ASKED",
    "RESIDUAL",
    "USUAL",
    "VALUES",
    "WALKS",
    "AttentionTrace",
    "ClusterTrace",
    "Pass",
    "ResidualTrace",
    "Trace",
    "attending",
    "capture",
    "evaluating",
    "run_pass",
    "trace_of",
    "trace_of_arrays",
]
