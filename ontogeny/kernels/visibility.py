"""Which keys a query may see."""

from __future__ import annotations

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.inputs import AttentionInputs, MaskMod

COUNTED_ROWS = 256


def visible(inputs: AttentionInputs, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Bool, broadcast over the indices of sequence, query head, query and key, integer tensors."""
    seen = torch.ones((), dtype=torch.bool, device=i.device)
    if inputs.causal:
        seen = j <= i
    if inputs.window is not None:
        seen = seen & (i - j < inputs.window)
    if inputs.mask is not None:
        seen = seen & inputs.mask[b, i] & inputs.mask[b, j]
    if inputs.mask_mod is not None:
        seen = seen & _asked(inputs.mask_mod, b, h, i, j)
    return seen


def _asked(mask_mod: MaskMod, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    told: object = mask_mod(b, h, i, j)
    indices = torch.broadcast_shapes(b.shape, h.shape, i.shape, j.shape)
    if not isinstance(told, Tensor) or told.dtype != torch.bool:
        kind = told.dtype if isinstance(told, Tensor) else type(told).__name__
        raise OntogenyError(f"mask_mod: expected it to return a bool tensor, got {kind}")
    if len(told.shape) > 4 or any(a not in (1, n) for a, n in zip(told.shape[::-1], indices[::-1], strict=False)):
        raise OntogenyError(
            f"mask_mod: expected a result that broadcasts to its indices, {tuple(indices)}, got {tuple(told.shape)}"
        )
    return told


def grid(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All indices of sequence (B, 1, 1, 1), head (H, 1, 1), query (T, 1) and key (S,)."""
    device = inputs.q.device
    batch, heads = inputs.q.shape[:2]
    b = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    h = torch.arange(heads, device=device).view(-1, 1, 1)
    i = torch.arange(inputs.queries, device=device).view(-1, 1)
    return b, h, i, torch.arange(inputs.keys, device=device)


def count_visible(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """For every key the query rows that see it (B, H, S), and the rows that see a key (B, H); float64."""
    if inputs.mask_mod is not None:
        return _counted(inputs)
    (batch, heads), keys, device = inputs.q.shape[:2], inputs.keys, inputs.q.device
    if inputs.mask is None:
        every = torch.full((1, 1), inputs.queries, dtype=torch.float64, device=device)
        rows = torch.arange(keys, 0, -1, dtype=torch.float64, device=device) if inputs.causal else every
        if inputs.window is not None:
            rows = rows.clamp_max(inputs.window)
        return rows.expand(batch, heads, keys), every.expand(batch, heads)
    valid, seeing = inputs.mask, inputs.mask.sum(1, keepdim=True)
    rows = seeing
    if inputs.causal:
        before = torch.nn.functional.pad(valid.cumsum(1), (1, 0))
        first = torch.arange(keys, device=device)
        end = (first + (inputs.window or keys)).clamp_max(keys)
        rows = before[:, end] - before[:, first]
    return (rows * valid).double()[:, None].expand(-1, heads, -1), seeing.double().expand(-1, heads)


def _counted(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    b, h, i, j = grid(inputs)
    batch, heads = inputs.q.shape[:2]
    rows = torch.zeros(batch, heads, inputs.keys, dtype=torch.float64, device=i.device)
    seeing = torch.zeros(batch, heads, dtype=torch.float64, device=i.device)
    for some in i.split(COUNTED_ROWS):
        seen = visible(inputs, b, h, some, j).expand(batch, heads, -1, -1)
        rows += seen.sum(-2)
        seeing += seen.any(-1).sum(-1)
    return rows, seeing
