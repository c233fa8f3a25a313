"""What one would do without Ontogeny: attention by torch, and the statistics by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Statistics = dict[str, Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Statistics:
    """The output alone, by torch's SDPA; a window or padding makes it take a mask of T x T bools."""
    plain = options["window"] is None and options["mask"] is None
    output = torch.nn.functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if plain else _seen(q, options),
        is_causal=plain,
        scale=options["scale"],
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return {"output": output}


def eager(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Statistics:
    """The whole map, kept, and every statistic from it."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    seen = _seen(q, options)
    scores = (q @ k.transpose(-1, -2) * options["scale"]).float().masked_fill(~seen, -torch.inf)
    p = torch.nan_to_num(scores.softmax(-1))
    i = torch.arange(q.shape[2], device=q.device, dtype=torch.float32)
    column_mass = p.sum(-2)
    rows = seen.expand(p.shape).any(-1).sum(-1).clamp_min(1)
    return {
        "output": p.to(v.dtype) @ v,
        "lse": torch.where(seen.any(-1), scores.logsumexp(-1), 0),
        "entropy": torch.special.entr(p).sum(-1),
        "row_max": p.amax(-1),
        "participation": torch.nan_to_num(p.norm(dim=-1) ** -2, posinf=0),
        "mass": p.sum(-1),
        "column_mass": column_mass,
        "distance": torch.einsum("bhij,ij->bh", p, (i[:, None] - i).abs()) / rows,
        "value_weighted_norm": (column_mass * v.float().norm(dim=-1)).sum(-1) / rows,
        "rows": p[:, :, options["rows"]],
    }


def flex(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Statistics:
    """Output and column mass by two FlexAttention calls: the second attends from keys to queries, less the first's lse.

    Its own normaliser is then the logarithm of each key's column mass. No entropy comes out. Needs a GPU.
    """
    from torch.nn.attention.flex_attention import AuxRequest

    window = options["window"] or q.shape[2]
    run = _compiled_flex()
    with_lse = {"scale": options["scale"], "return_aux": AuxRequest(lse=True)}
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    output, first = run(q, k, v, block_mask=_block_mask(q.shape[2], window, False, q.device), **with_lse)
    lse = first.lse

    def less_lse(score: Tensor, b: Tensor, h: Tensor, _j: Tensor, i: Tensor) -> Tensor:
        return score - lse[b, h, i]

    backward = _block_mask(q.shape[2], window, True, q.device)
    _, second = run(k, q, q, score_mod=less_lse, block_mask=backward, **with_lse)
    return {"output": output, "lse": lse, "column_mass": second.lse.exp()}


def _seen(q: Tensor, options: dict[str, Any]) -> Tensor:
    i = torch.arange(q.shape[2], device=q.device)
    back = i[:, None] - i
    seen = (back >= 0) if options["window"] is None else (back >= 0) & (back < options["window"])
    if options["mask"] is None:
        return seen[None, None]
    return seen & options["mask"][:, None, :, None] & options["mask"][:, None, None, :]


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@cache
def _block_mask(length: int, window: int, transposed: bool, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        back = j - i if transposed else i - j
        return (back >= 0) & (back < window)

    return create_block_mask(seen, None, None, length, length, device=device)
