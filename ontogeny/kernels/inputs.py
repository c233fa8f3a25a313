"""What attention is computed from, checked once for every implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.mechanisms import Mechanism

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Output = Literal["fused", "sdpa"]


@dataclass(frozen=True)
class AttentionInputs:
    """The arguments of `attention_stats`, which tells what they are. Raises OntogenyError where they do not fit."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    causal: bool
    mechanism: Mechanism
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    mask: Tensor | None = None
    mask_mod: MaskMod | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    output: Output = "fused"

    def __post_init__(self) -> None:
        self._check_tensors()
        self._check_numbers()
        self._check_masks()
        for name, indices, size in (("rows", self.rows, self.queries), ("columns", self.columns, self.keys)):
            if indices is not None:
                _check_indices(name, indices, size)

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def queries(self) -> int:
        """The number of query rows, T."""
        return self.q.shape[2]

    @property
    def keys(self) -> int:
        """The number of keys, S."""
        return self.k.shape[2]

    def key_counts(self) -> Tensor:
        """How many keys each sequence has, padding left out, at least 1: float64 (B, 1, 1, 1)."""
        if self.mask is None:
            return torch.full((self.q.shape[0], 1, 1, 1), self.keys, dtype=torch.float64, device=self.q.device)
        return self.mask.sum(1).clamp_min(1).double().view(-1, 1, 1, 1)

    def _check_tensors(self) -> None:
        q, k, v = self.q, self.k, self.v
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        if not (q.ndim == k.ndim == v.ndim == 4):
            raise OntogenyError(f"expected q (B, H, T, d) and k, v (B, Hkv, S, d), got {shapes}")
        if 0 in (*q.shape, *k.shape, *v.shape):
            raise OntogenyError(f"q, k and v must not be empty, got {shapes}")
        if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
            raise OntogenyError(f"q, k and v do not belong together: {shapes}")
        if q.shape[1] % k.shape[1]:
            raise OntogenyError(f"the number of query heads must be a multiple of the key heads: {shapes}")
        dtypes = [x.dtype for x in (q, k, v)]
        if not q.is_floating_point() or len(set(dtypes)) > 1:
            raise OntogenyError(f"q, k and v need one floating-point dtype, got {', '.join(map(str, dtypes))}")
        devices = sorted({str(x.device) for x in (q, k, v, self.mask, self.sinks, self.bias) if x is not None})
        if len(devices) > 1:
            raise OntogenyError(f"q, k, v, mask, sinks and bias must be on one device, got {', '.join(devices)}")
        if self.sinks is not None and self.sinks.shape != (q.shape[1],):
            raise OntogenyError(
                f"sinks: expected one logit for each of {q.shape[1]} heads, got shape {tuple(self.sinks.shape)}"
            )
        if self.bias is not None and not _broadcasts(self.bias.shape, (*q.shape[:3], k.shape[2])):
            raise OntogenyError(
                f"bias: expected a shape broadcastable to {(*q.shape[:3], k.shape[2])}, got {tuple(self.bias.shape)}"
            )

    def _check_numbers(self) -> None:
        if not math.isfinite(self.scale):
            raise OntogenyError(f"scale: expected a finite number, got {self.scale}")
        if self.softcap is not None and not (math.isfinite(self.softcap) and self.softcap > 0):
            raise OntogenyError(f"softcap: expected a positive number, got {self.softcap}")
        if self.window is not None and not (self.causal and self.window >= 1):
            raise OntogenyError(f"window: expected causal attention and at least one key, got {self.window}")
        if self.output not in ("fused", "sdpa"):
            raise OntogenyError(f"output: expected fused or sdpa, got {self.output!r}")

    def _check_masks(self) -> None:
        q, k = self.q, self.k
        if (self.causal or self.mask is not None) and q.shape[2] != k.shape[2]:
            raise OntogenyError(
                f"causal or padded attention needs as many queries as keys, got {q.shape[2]} and {k.shape[2]}: "
                "pass whole sequences, without a key-value cache"
            )
        if self.mask is None:
            return
        if self.mask.dtype != torch.bool or self.mask.shape != (k.shape[0], k.shape[2]):
            raise OntogenyError(
                f"mask: expected padding as bool of shape {(k.shape[0], k.shape[2])}, True at tokens, "
                f"got {self.mask.dtype} of shape {tuple(self.mask.shape)}"
            )


def _broadcasts(shape: torch.Size, target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1], strict=False))


def _check_indices(name: str, indices: Tensor, size: int) -> None:
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise OntogenyError(f"{name}: expected a vector of indices, got {indices.dtype} {tuple(indices.shape)}")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise OntogenyError(f"{name}: expected indices from 0 to {size - 1}, got {indices.tolist()[:8]}")
