"""Attention and its statistics in plain torch, a block of query rows at a time, on any device.

A block's scores become weights, are used for the output and for every statistic, and are dropped before the next
block: peak extra memory is a few such blocks, whatever the length. Keys that no row of a block may see are skipped.
"""

from ontogeny.kernels.blocked.attention import blocked_attention

__all__ = ["blocked_attention"]
