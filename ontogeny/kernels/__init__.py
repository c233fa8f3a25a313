"""Attention that returns its ordinary output and, with it, the statistics that the probes need."""

from ontogeny.kernels import masks
from ontogeny.kernels.attention import attention, attention_stats
from ontogeny.kernels.mechanisms import MECHANISMS, Mechanism
from ontogeny.kernels.stats import AttentionStats

__all__ = ["MECHANISMS", "AttentionStats", "Mechanism", "attention", "attention_stats", "masks"]
