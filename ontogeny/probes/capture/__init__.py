"""Makes the Trace: one forward pass of a transformers model, hooked and reduced as it runs."""

from ontogeny.probes.capture.run import ATTENTION, RESIDUAL, capture
from ontogeny.probes.capture.trace import CAPTURED, AttentionTrace, ResidualTrace, Trace

__all__ = ["ATTENTION", "CAPTURED", "RESIDUAL", "AttentionTrace", "ResidualTrace", "Trace", "capture"]
