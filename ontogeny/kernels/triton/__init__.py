"""Attention and its statistics on NVIDIA GPUs; importing this package needs no triton."""

from __future__ import annotations

from ontogeny.errors import OntogenyError
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.stats import AttentionStats


def out_of_reach(inputs: AttentionInputs) -> str | None:
    """Why the kernels are not made for these inputs, or None."""
    return "not built yet"


def triton_attention(inputs: AttentionInputs) -> AttentionStats:
    """Attention and its statistics by the kernels F and C. Raises OntogenyError where they cannot run."""
    raise OntogenyError("impl: triton cannot run this")
