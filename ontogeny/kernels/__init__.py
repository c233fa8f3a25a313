"""Attention that returns its ordinary output and, with it, the statistics that the probes need."""

from ontogeny.kernels.attention import attention_stats
from ontogeny.kernels.stats import AttentionStats

__all__ = ["AttentionStats", "attention_stats"]
