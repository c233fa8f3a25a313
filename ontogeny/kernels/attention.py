"""The entries to the attention implementations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.blocked import blocked_attention
from ontogeny.kernels.inputs import AttentionInputs, MaskMod, Output
from ontogeny.kernels.mechanisms import MECHANISMS, Mechanism
from ontogeny.kernels.output import attention_output
from ontogeny.kernels.reference import reference_attention
from ontogeny.kernels.stats import AttentionStats
from ontogeny.kernels.triton import out_of_reach, triton_attention, triton_was_run_on

Implementation = Literal["auto", "reference", "blocked", "triton"]

_IMPLEMENTATIONS = {"reference": reference_attention, "blocked": blocked_attention, "triton": triton_attention}


def attention_stats(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    mechanism: str = "softmax",
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | float | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mod: MaskMod | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    output: Output = "fused",
    impl: Implementation = "auto",
) -> AttentionStats:
    """Attention with its statistics, without a T x S map in memory.

    Shapes: `q` (B, H, T, d); `k` (B, Hkv, S, d) and `v` (B, Hkv, S, dv) with H a multiple of Hkv; `sinks` (H,), a logit
    that takes attention away from the keys, or one number for all heads; `bias` finite, broadcastable to (B, H, T, S),
    added to the scores; `mask` (B, S), True at tokens that are not padding; `mask_mod(b, h, i, j)` tells from index
    tensors which query sees which key (see `masks`); `rows` and `columns`, indices of the map's parts to return.

    `mechanism` is a name in `mechanisms`; `sinks` turn `softmax` into `softmax_sink`. `window` = w lets a query see
    the w latest keys, its own included (causal only). `softcap` = c squashes scores to c tanh(score / c).

    `impl`: `reference` (float64, whole maps, the specification, differentiable), `blocked` (torch, any device),
    `triton` (NVIDIA GPUs), or `auto`: `triton` on the GPUs that it has been run on, where it has a kernel for what is
    asked and is installed, else `blocked`.
    `output="sdpa"` takes the output from torch's own kernel, to the bit what SDPA gives without statistics. Sums are in
    float32 at least, under autocast too. NaN in q, k or v shows in the rows that see it.

    Raises OntogenyError, naming the argument, for what does not fit and for an `impl` that cannot run it.
    """
    asked, logits = resolve_mechanism(mechanism, sinks, q)
    inputs = AttentionInputs(
        q,
        k,
        v,
        scale=scale,
        causal=causal,
        mechanism=asked,
        window=window,
        softcap=softcap,
        sinks=logits,
        bias=bias,
        mask=mask,
        mask_mod=mask_mod,
        rows=rows,
        columns=columns,
        output=output,
    )
    if impl not in ("auto", *_IMPLEMENTATIONS):
        raise OntogenyError(f"impl: expected auto, {', '.join(_IMPLEMENTATIONS)}, got {impl!r}")
    with torch.autocast(q.device.type, enabled=False):
        return _IMPLEMENTATIONS[_best(inputs) if impl == "auto" else impl](inputs)


def _best(inputs: AttentionInputs) -> Implementation:
    reachable = triton_was_run_on(inputs.q.device) and out_of_reach(inputs) is None
    return "triton" if reachable else "blocked"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    mechanism: str = "softmax",
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | float | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mod: MaskMod | None = None,
) -> Tensor:
    """The output (B, H, T, dv) alone, differentiable, by torch's own kernel wherever that can say it.

    Arguments and errors are those of `attention_stats`. What SDPA cannot say (a soft-cap, a bias, every mechanism but
    softmax) is computed from a whole map, in float32 at least.
    """
    asked, logits = resolve_mechanism(mechanism, sinks, q)
    return attention_output(
        AttentionInputs(
            q,
            k,
            v,
            scale=scale,
            causal=causal,
            mechanism=asked,
            window=window,
            softcap=softcap,
            sinks=logits,
            bias=bias,
            mask=mask,
            mask_mod=mask_mod,
        )
    )


def resolve_mechanism(name: str, sinks: Tensor | float | None, q: Tensor) -> tuple[Mechanism, Tensor | None]:
    """The mechanism that `name` and `sinks` stand for together, and the sink logits (H,) that it takes."""
    if not isinstance(name, str) or name not in MECHANISMS:
        raise OntogenyError(f"mechanism: expected one of {', '.join(MECHANISMS)}, got {name!r}")
    mechanism = MECHANISMS["softmax_sink" if name == "softmax" and sinks is not None else name]
    if not mechanism.takes_sinks:
        if sinks is not None:
            raise OntogenyError(f"sinks: {name} attention has no sink logit; expected softmax_sink")
        return mechanism, None
    if isinstance(sinks, Tensor):
        return mechanism, sinks
    if not isinstance(sinks, int | float | None):
        raise OntogenyError(f"sinks: expected a tensor (H,) or a number, got a {type(sinks).__name__}")
    return mechanism, torch.full((q.shape[1],), 0.0 if sinks is None else float(sinks), dtype=q.dtype, device=q.device)
