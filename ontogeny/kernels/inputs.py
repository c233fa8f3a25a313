"""What attention is computed from, checked once for every implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ontogeny.errors import OntogenyError
from ontogeny.kernels.mechanisms import Mechanism

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Output = Literal["fused", "sdpa"]

# Indices, their version, and the size that they were within: a capture asks every layer for the same ones, and to look
# at them is to wait for a GPU to finish all that it was given.
_within: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


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
        for name in ("q", "k", "v", "sinks", "bias", "mask", "rows", "columns"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and (name in "qkv" or value is not None):
                raise OntogenyError(f"{name}: expected a tensor, got {_kind(value)}")
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

    @property
    def working_dtype(self) -> torch.dtype:
        """What is computed in: float32, or float64 for float64 input."""
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32

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
        everything = (q, k, v, self.mask, self.sinks, self.bias, self.rows, self.columns)
        devices = sorted({str(x.device) for x in everything if x is not None})
        if len(devices) > 1:
            raise OntogenyError(f"expected every tensor on one device, got {', '.join(devices)}")
        if self.sinks is not None and self.sinks.shape != (q.shape[1],):
            raise OntogenyError(
                f"sinks: expected one logit for each of {q.shape[1]} heads, got shape {tuple(self.sinks.shape)}"
            )
        if self.bias is not None and not _broadcasts(self.bias.shape, (*q.shape[:3], k.shape[2])):
            raise OntogenyError(
                f"bias: expected a shape broadcastable to {(*q.shape[:3], k.shape[2])}, got {tuple(self.bias.shape)}"
            )
        if self.bias is not None and not bool(self.bias.isfinite().all()):
            raise OntogenyError("bias: expected finite numbers; hide keys by `mask` or `mask_mod`, not by -inf")

    def _check_numbers(self) -> None:
        if not (isinstance(self.scale, int | float) and math.isfinite(self.scale)):
            raise OntogenyError(f"scale: expected a finite number, got {_kind(self.scale)}")
        if self.softcap is not None and not (
            isinstance(self.softcap, int | float) and math.isfinite(self.softcap) and self.softcap > 0
        ):
            raise OntogenyError(f"softcap: expected a positive number, got {_kind(self.softcap)}")
        if self.window is not None and not (isinstance(self.window, int) and self.window >= 1):
            raise OntogenyError(f"window: expected a whole number of keys, at least 1, got {_kind(self.window)}")
        if self.window is not None and not self.causal:
            raise OntogenyError("window: expected causal=True; two-sided windows are a mask_mod, masks.sliding_window")
        if self.output not in ("fused", "sdpa"):
            raise OntogenyError(f"output: expected fused or sdpa, got {self.output!r}")

    def _check_masks(self) -> None:
        q, k = self.q, self.k
        if (self.causal or self.mask is not None) and q.shape[2] != k.shape[2]:
            raise OntogenyError(
                f"causal or padded attention needs as many queries as keys, got {q.shape[2]} and {k.shape[2]}: "
                "pass whole sequences, without a key-value cache"
            )
        if self.mask_mod is not None and not callable(self.mask_mod):
            raise OntogenyError(f"mask_mod: expected a function of (b, h, i, j), got {_kind(self.mask_mod)}")
        made_for = getattr(self.mask_mod, "length", None)
        if made_for is not None and max(self.queries, self.keys) > made_for:
            raise OntogenyError(f"mask_mod: made for {made_for} tokens, got {max(self.queries, self.keys)}")
        if self.mask is None:
            return
        if self.mask.dtype != torch.bool or self.mask.shape != (k.shape[0], k.shape[2]):
            raise OntogenyError(
                f"mask: expected padding as bool of shape {(k.shape[0], k.shape[2])}, True at tokens, "
                f"got {self.mask.dtype} of shape {tuple(self.mask.shape)}"
            )


def _kind(value: object) -> str:
    return repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"


def _broadcasts(shape: torch.Size, target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1], strict=False))


def _check_indices(name: str, indices: Tensor, size: int) -> None:
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise OntogenyError(f"{name}: expected a vector of indices, got {indices.dtype} {tuple(indices.shape)}")
    known = None if indices.is_inference() else (indices._version, size)
    if known is not None and _within.get(indices) == known:
        return
    here = indices.cpu()  # one question to the device, not one for either end
    if len(here) and (int(here.min()) < 0 or int(here.max()) >= size):
        raise OntogenyError(f"{name}: expected indices from 0 to {size - 1}, got {indices.tolist()[:8]}")
    _within[indices] = known
