"""What attention is computed from, checked once for every implementation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ontogeny.errors import OntogenyError


@dataclass(frozen=True)
class AttentionInputs:
    """The arguments of `attention_stats`, which tells what they are. Raises OntogenyError where they do not fit."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    mask: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        if not (q.ndim == k.ndim == v.ndim == 4):
            raise OntogenyError(f"expected q (B, H, T, d) and k, v (B, Hkv, S, d), got {shapes}")
        if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
            raise OntogenyError(f"q, k and v do not belong together: {shapes}")
        if q.shape[1] % k.shape[1]:
            raise OntogenyError(f"the number of query heads must be a multiple of the key heads: {shapes}")
        if (self.causal or self.mask is not None) and q.shape[2] != k.shape[2]:
            raise OntogenyError(f"causal or padded attention needs as many queries as keys (no cache), got {shapes}")
        if self.window is not None and not (self.causal and self.window >= 1):
            raise OntogenyError(f"a window needs causal attention and at least one key, got {self.window}")
        if self.sinks is not None and self.sinks.shape != (q.shape[1],):
            raise OntogenyError(
                f"expected one sink logit for each of {q.shape[1]} heads, got shape {tuple(self.sinks.shape)}"
            )
        if self.mask is not None and self.mask.shape != (k.shape[0], k.shape[2]):
            raise OntogenyError(
                f"expected a padding mask of shape {(k.shape[0], k.shape[2])}, got {tuple(self.mask.shape)}"
            )

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.q.shape[1] // self.k.shape[1]
