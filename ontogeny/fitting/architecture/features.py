"""What an architecture and a layer are to a predictor: a row of numbers, from the specification alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ontogeny.archspec import ArchSpec
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RELATIVE_DEPTH = "l/(L-1)"  # 0 at the first block and 1 at the last, in every model
LOG_WIDTH = "log d"
PUBLISHED = ("l/L", "(l/L)^2", "(l/L)^3", "sqrt(l/L)", "H/d", "d_ff/d", "d/L", "H/L", LOG_WIDTH, "l L")
CONFOUNDERS = ("bfloat16", "other init", "rotary", "parallel residual")
FEATURES = (RELATIVE_DEPTH, *PUBLISHED, *CONFOUNDERS)
COUNTS = ("layers", "width", "heads", "kv_heads", "head_dim", "ffn")


def feature_matrix(arch: ArchSpec, layers: Iterable[int]) -> Array:
    """FEATURES of `layers` (from 0) of an architecture, (m, F).

    Sizes are those of arXiv 2508.03616: l is the layer, L the number of layers, H of heads, d the width, d_ff the
    MLP's; H/d is its "attention density". CONFOUNDERS are 1 where the specification says so and 0 otherwise, also
    where it says nothing.
    """
    deep, wide = arch.layers, arch.width
    confounders = [
        arch.dtype == "bfloat16",
        arch.init == "other",
        arch.positional == "rotary",
        bool(arch.parallel_residual),
    ]
    rows = []
    for layer in layers:
        x = layer / deep
        ratios = [arch.heads / wide, arch.ffn / wide, wide / deep, arch.heads / deep]
        published = [x, x**2, x**3, math.sqrt(x), *ratios, math.log(wide), layer * deep]
        rows.append([layer / max(deep - 1, 1), *published, *confounders])
    return np.array(rows, dtype=float).reshape(-1, len(FEATURES))


def columns(names: Sequence[str]) -> list[int]:
    """Where `names` stand among FEATURES."""
    return [FEATURES.index(name) for name in names]


def specification(spec: ArchSpec | Mapping[str, Any]) -> ArchSpec:
    """`spec`, or the one that a mapping with `layers`, `width`, `heads` and other fields of ArchSpec stands for.

    What a mapping lacks is the usual: heads of width / heads, as many for keys, an MLP of 4 widths; `vocab`, which
    nothing here reads, is 0. Raises UsageError for a field that does not exist, and for numbers that no transformer
    has.
    """
    if not isinstance(spec, ArchSpec):
        spec = _from_mapping(spec)
    for name in COUNTS:
        _check_count(name, getattr(spec, name))
    if spec.width % spec.heads and spec.head_dim == max(spec.width // spec.heads, 1):
        raise UsageError(
            f"expected heads that divide the width, got {spec.heads} heads and width {spec.width}: "
            "give `head_dim`, from Python, where heads are not width / heads wide"
        )
    if spec.heads % spec.kv_heads:
        raise UsageError(f"expected kv_heads that divide the heads, got {spec.kv_heads} for {spec.heads} heads")
    return spec


def chosen_layers(arch: ArchSpec, layer: int | None) -> list[int]:
    """All layers of `arch`, or the one that was asked for. Raises UsageError where it has no such layer."""
    if layer is None:
        return list(range(arch.layers))
    if not isinstance(layer, (int, np.integer)) or isinstance(layer, bool) or not 0 <= layer < arch.layers:
        raise UsageError(f"expected a layer from 0 to {arch.layers - 1}, got {layer!r}")
    return [int(layer)]


def _from_mapping(given: Mapping[str, Any]) -> ArchSpec:
    if not isinstance(given, Mapping):
        raise UsageError(
            f"expected an ArchSpec, or a mapping with its layers, width and heads; got {given!r}. Of a source: "
            "ontogeny.open_series(source).arch"
        )
    known = {field.name for field in fields(ArchSpec)}
    unknown = sorted(set(given) - known)
    lacking = [name for name in ("layers", "width", "heads") if given.get(name) is None]
    if unknown or lacking:
        raise UsageError(
            f"expected an ArchSpec, or its layers, width and heads, and other fields of it; got {dict(given)!r}"
        )
    for name in ("layers", "width", "heads"):
        _check_count(name, given[name])
    heads, width = given["heads"], given["width"]
    usual = {"kv_heads": heads, "head_dim": max(width // heads, 1), "ffn": 4 * width, "vocab": 0}
    stated = {name: value for name, value in given.items() if value is not None}
    return ArchSpec(**(usual | stated))


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise UsageError(f"expected a positive whole number as {name}, got {value!r}")
