"""The one entry to the attention implementations: checks the request, then hands it on."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.blocked import blocked_attention
from ontogeny.kernels.reference import reference_attention
from ontogeny.kernels.stats import AttentionStats

Implementation = Literal["auto", "reference", "blocked"]

_IMPLEMENTATIONS = {"reference": reference_attention, "blocked": blocked_attention}


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
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    impl: Implementation = "auto",
) -> AttentionStats:
    """Attention with its statistics, without a T x S map in memory.

    Shapes: `q` (B, H, T, d); `k` (B, Hkv, S, d) and `v` (B, Hkv, S, dv) with H a multiple of Hkv; `sinks` (H,), a logit
    that takes attention away from the keys; `bias` finite, broadcastable to (B, H, T, S), added to the scores; `mask`
    (B, S), True at tokens that are not padding; `rows` and `columns`, indices of the map's rows and columns to return.

    `window` = w lets a query see the w latest keys, its own included (causal only). `softcap` = c squashes scores to
    c tanh(score / c). `impl` is `reference` (float64, the specification), `blocked` (any device) or `auto`, which is
    `blocked`; what cannot run raises.

    Raises OntogenyError for shapes, mechanisms or implementations that do not fit.
    """
    if mechanism != "softmax":
        raise OntogenyError(f"unknown attention mechanism {mechanism!r}: this version measures `softmax`")
    if impl not in ("auto", *_IMPLEMENTATIONS):
        raise OntogenyError(f"unknown implementation {impl!r}: expected auto, {', '.join(_IMPLEMENTATIONS)}")
    _check_shapes(q, k, v, causal, window, sinks, mask)
    attend = _IMPLEMENTATIONS["blocked" if impl == "auto" else impl]
    return attend(
        q,
        k,
        v,
        scale=scale,
        causal=causal,
        window=window,
        softcap=softcap,
        sinks=sinks,
        bias=bias,
        mask=mask,
        rows=rows,
        columns=columns,
    )


def _check_shapes(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, sinks: Tensor | None, mask: Tensor | None
) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not (q.ndim == k.ndim == v.ndim == 4):
        raise OntogenyError(f"expected q (B, H, T, d) and k, v (B, Hkv, S, d), got {shapes}")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise OntogenyError(f"q, k and v do not belong together: {shapes}")
    if q.shape[1] % k.shape[1]:
        raise OntogenyError(f"the number of query heads must be a multiple of the key heads: {shapes}")
    if (causal or mask is not None) and q.shape[2] != k.shape[2]:
        raise OntogenyError(f"causal or padded attention needs as many queries as keys (no cache), got {shapes}")
    if window is not None and not (causal and window >= 1):
        raise OntogenyError(f"a window needs causal attention and at least one key, got {window}")
    if sinks is not None and sinks.shape != (q.shape[1],):
        raise OntogenyError(f"expected one sink logit for each of {q.shape[1]} heads, got shape {tuple(sinks.shape)}")
    if mask is not None and mask.shape != (k.shape[0], k.shape[2]):
        raise OntogenyError(f"expected a padding mask of shape {(k.shape[0], k.shape[2])}, got {tuple(mask.shape)}")
