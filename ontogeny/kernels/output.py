"""Attention alone: no statistics, differentiable, through torch's own kernel wherever that can say it."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.chosen import map_rows
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.visibility import grid, visible


def attention_output(inputs: AttentionInputs) -> Tensor:
    """The output (B, H, T, dv): by torch's scaled_dot_product_attention, else from the map, in float32 at least."""
    if sdpa_can_say(inputs):
        return sdpa_output(inputs)
    every = torch.arange(inputs.queries, device=inputs.q.device)
    attention = map_rows(inputs, every)
    return (attention @ inputs.v.to(attention.dtype).repeat_interleave(inputs.group, 1)).to(inputs.q.dtype)


def sdpa_can_say(inputs: AttentionInputs) -> bool:
    """Whether torch's kernel computes this attention."""
    return inputs.mechanism.name == "softmax" and inputs.softcap is None and inputs.bias is None


def sdpa_output(inputs: AttentionInputs) -> Tensor:
    """The output by torch's kernel. Raises OntogenyError where that cannot compute this attention."""
    if not sdpa_can_say(inputs):
        raise OntogenyError(
            f"output: torch's SDPA computes softmax without soft-cap, sink or bias, and this is "
            f"{inputs.mechanism.name} with softcap={inputs.softcap}: expected output='fused'"
        )
    restricted = inputs.window is not None or inputs.mask is not None or inputs.mask_mod is not None
    seen = visible(inputs, *grid(inputs)) if restricted else None
    output = torch.nn.functional.scaled_dot_product_attention(
        inputs.q,
        inputs.k,
        inputs.v,
        attn_mask=seen,
        is_causal=inputs.causal and not restricted,
        scale=inputs.scale,
        enable_gqa=inputs.group > 1,
    )
    if seen is None or (inputs.mask is None and inputs.mask_mod is None) or not inputs.q.is_cuda:
        return output
    # On a GPU a row without a key is whatever the kernel leaves there; on a CPU it is 0.
    return output.masked_fill(~seen.any(-1, keepdim=True), 0)
