"""The one entry to the attention implementations."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.blocked import blocked_attention
from ontogeny.kernels.inputs import AttentionInputs
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
    inputs = AttentionInputs(q, k, v, scale, causal, window, softcap, sinks, bias, mask, rows, columns)
    return _IMPLEMENTATIONS["blocked" if impl == "auto" else impl](inputs)
