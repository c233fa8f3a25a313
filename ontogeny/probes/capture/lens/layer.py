"""One layer's trace from what TransformerLens shows of it.

What a layer's queries may see is read off its scores, whose hidden entries hold the least number of their dtype. The
pattern must then be their softmax, and pattern times values what the output projection was given: an architecture
whose hooks show something else is refused, never measured wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.finite import require_finite
from ontogeny.probes.capture.lens.bridge import OTHERWISE
from ontogeny.probes.capture.logits import EnteringStates
from ontogeny.probes.capture.projection import update_norm
from ontogeny.probes.capture.reduce import reduce_map
from ontogeny.probes.capture.routing import AskedOfLayer
from ontogeny.probes.capture.trace import CAPTURED, AttentionTrace

# In the order in which a layer runs them, which is that of the fields of `LayerTensors`.
LAYER_HOOKS = ("v.hook_out", "hook_attn_scores", "hook_pattern", "o.hook_in")


@dataclass(frozen=True)
class LayerTensors:
    """What a layer's hooks show: `v` (B, T, Hkv, d), `scores` and `pattern` (B, H, T, T), and `z` (B, T, H, d)."""

    v: Tensor
    scores: Tensor
    pattern: Tensor
    z: Tensor


@torch.no_grad()
def layer_trace(
    where: str, shown: LayerTensors, asked: AskedOfLayer, projection: nn.Module
) -> tuple[AttentionTrace, Tensor]:
    """The trace of the layer named by `where`, and its tokens that are no padding (B, T): those that see themselves.

    `projection` is what the layer's attention is handed on to.

    Raises OntogenyError where the tensors do not belong to plain attention over whole sequences.
    """
    v, scores, pattern, z = shown.v, shown.scores, shown.pattern, shown.z
    if pattern.ndim != 4 or pattern.shape != scores.shape or pattern.shape[-1] != pattern.shape[-2]:
        raise OntogenyError(
            f"{where}: expected attention of whole sequences, (B, H, T, T), got scores {tuple(scores.shape)} and a "
            f"pattern {tuple(pattern.shape)}: run without a key-value cache and without pos_slice"
        )
    require_finite(v)
    require_finite(pattern)
    working = torch.float64 if pattern.dtype == torch.float64 else torch.float32
    close = {torch.float32: 1e-4, torch.float64: 1e-6}.get(pattern.dtype, 2e-2)
    seen = scores > torch.finfo(scores.dtype).min / 2
    valid = seen.diagonal(dim1=-2, dim2=-1).all(1)
    if not bool(valid.any(1).all()):
        raise OntogenyError(f"{where}: a sequence has no token that sees itself: cannot be measured; {OTHERWISE}")
    seen = seen & valid[:, None, :, None] & valid[:, None, None, :]
    attention = pattern.to(working).masked_fill(~seen, 0)
    softmax = scores.to(working).masked_fill(~seen, -torch.inf).softmax(-1).masked_fill(~seen, 0)
    if not torch.allclose(attention, softmax, rtol=0, atol=close):
        raise OntogenyError(
            f"{where}: the pattern is not the softmax of the scores, so there is a sink, an edit by a hook, or another "
            f"kind of attention that cannot be measured here; {OTHERWISE}"
        )
    values = v.to(working).transpose(1, 2).repeat_interleave(pattern.shape[1] // v.shape[2], dim=1)
    output = attention @ values
    error = (output.transpose(1, 2) - z.to(working))[valid].abs().amax()
    if not bool(error <= 10 * close * values.abs().amax()):
        raise OntogenyError(
            f"{where}: pattern times values is not what the output projection was given, so the values are gated, "
            f"clipped or edited by a hook besides; {OTHERWISE}"
        )
    trace = reduce_map(attention, seen, valid, values, output, asked)
    if asked.entering is not None:
        states = EnteringStates.of(asked.entering, valid)
        found = states.slopes(lambda rows: scores[:, :, rows], lambda rows: seen[:, :, rows], scores.shape[1])
        trace = replace(trace, logit_slope=found.slope, logit_r2=found.r2)
    norm = update_norm(projection, v.transpose(1, 2), pattern.shape[1])
    return replace(trace, update_norm=None if isinstance(norm, str) else norm), valid


def updates_of(layers: Sequence[AttentionTrace]) -> str:
    """Whether every layer's trace has the norms of W_O v, or why not."""
    without = [layer for layer, trace in enumerate(layers) if trace.update_norm is None]
    return f"unavailable: layer {without[0]} hands its attention on to no linear map" if without else CAPTURED
