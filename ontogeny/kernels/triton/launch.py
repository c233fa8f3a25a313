"""Runs kernel F, then what needs its logsumexp: kernel C, the chosen parts of the map, and the means."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.triton.chosen import map_kernel
from ontogeny.kernels.triton.columns import column_kernel
from ontogeny.kernels.triton.configurations import (
    HOPPER_SHARED_MEMORY,
    column_configuration,
    forward_configuration,
    map_configuration,
    padded,
)
from ontogeny.kernels.triton.forward import forward_kernel
from ontogeny.kernels.triton.means import mean_kernel
from ontogeny.kernels.triton.padding import spans

INTERPRETED = not isinstance(forward_kernel, JITFunction)


MEAN_BLOCK = 1024


@dataclass(frozen=True)
class Swept:
    """What the kernels leave: `output` (B, H, T, dv), unless SDPA is to say it; the statistics, float32.

    `column_mass` is (B, H, S), `value_norm` (B, Hkv, S), `distance` and `value_weighted_norm` are (B, H), `rows` and
    `columns` the chosen parts of the map; all else is (B, H, T). `lse` means nothing for a mechanism that has none.
    """

    output: Tensor | None
    lse: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor
    column_mass: Tensor
    value_norm: Tensor
    distance: Tensor
    value_weighted_norm: Tensor
    rows: Tensor | None
    columns: Tensor | None


def sweep(inputs: AttentionInputs) -> Swept:
    """All kernels, for inputs that they are made for."""
    shared = shared_arguments(inputs)
    norm = torch.linalg.vector_norm(inputs.v, dim=-1, dtype=torch.float32)
    with torch.cuda.device(inputs.q.device) if inputs.q.is_cuda else contextlib.nullcontext():
        output, rows = run_forward(inputs, shared)
        column_mass = run_columns(inputs, shared, rows["LSE"])
        distance, weighted = _run_means(inputs, shared, rows, column_mass, norm)
        chosen_rows = None if inputs.rows is None else _run_map(inputs, shared, rows["LSE"], rows=inputs.rows)
        chosen_columns = None
        if inputs.columns is not None:
            chosen_columns = _run_map(inputs, shared, rows["LSE"], columns=inputs.columns)
    rows.pop("DISTANCE", None)
    return Swept(
        output=output,
        **{name.lower(): x for name, x in rows.items()},
        column_mass=column_mass,
        value_norm=norm,
        distance=distance,
        value_weighted_norm=weighted,
        rows=chosen_rows,
        columns=chosen_columns,
    )


def run_forward(inputs: AttentionInputs, shared: dict[str, Any]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The output, and the rows' statistics by the names that the kernel has for them."""
    size = inputs.v.shape[-1]
    width = max(padded(size), shared["BLOCK_D"])
    reach = min(inputs.window or inputs.keys, inputs.keys)
    chosen = forward_configuration(width, inputs.q.dtype, reach, _shared_memory(inputs.q.device))
    v = _rows_whole(inputs.v)
    names = ["LSE", "ENTROPY", "ROW_MAX", "PARTICIPATION", "MASS", *([] if inputs.causal else ["DISTANCE"])]
    rows = {name: _empty(inputs.q, *inputs.q.shape[:3]) for name in names}
    output = None
    if inputs.output == "fused":
        # The interpreter cuts off where a GPU rounds to bfloat16.
        dtype = torch.float32 if shared["UPCAST"] else inputs.q.dtype
        output = _empty(inputs.q, *inputs.q.shape[:3], size, dtype=dtype)
    forward_kernel[_grid(inputs, inputs.queries, chosen.block_m)](
        **{"DISTANCE": None, **rows},
        **shared,
        **_strides("v", v),
        V=v,
        OUTPUT=output,
        SINKS=None if inputs.sinks is None else inputs.sinks.detach().contiguous(),
        DV=size,
        BLOCK_DV=padded(size),
        BLOCK_M=chosen.block_m,
        BLOCK_N=chosen.block_n,
        HAS_OUTPUT=output is not None,
        **chosen.launch_options(),
    )
    return None if output is None else output.to(inputs.q.dtype), rows


def run_columns(inputs: AttentionInputs, shared: dict[str, Any], lse: Tensor) -> Tensor:
    chosen = column_configuration(shared["BLOCK_D"], inputs.q.dtype, _shared_memory(inputs.q.device))
    column_mass = _empty(inputs.q, *inputs.q.shape[:2], inputs.keys)
    column_kernel[_grid(inputs, inputs.keys, chosen.block_n)](
        **shared,
        LSE=lse,
        COLUMN_MASS=column_mass,
        BLOCK_M=chosen.block_m,
        BLOCK_N=chosen.block_n,
        **chosen.launch_options(),
    )
    return column_mass


def _run_means(
    inputs: AttentionInputs, shared: dict[str, Any], rows: dict[str, Tensor], column_mass: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor]:
    distance, weighted = (_empty(inputs.q, *inputs.q.shape[:2]) for _ in range(2))
    mean_kernel[(distance.numel(),)](
        MASS=rows["MASS"],
        COLUMN_MASS=column_mass,
        ROW_DISTANCE=rows.get("DISTANCE"),
        VALUE_NORM=norm,
        DISTANCE=distance,
        WEIGHTED_NORM=weighted,
        BLOCK=MEAN_BLOCK,
        **{name: shared[name] for name in ("MASK", "queries", "keys", "heads", "group", "CAUSAL", "HAS_MASK")},
    )
    return distance, weighted


def _run_map(
    inputs: AttentionInputs,
    shared: dict[str, Any],
    lse: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """The map's `rows` (R,), or its `columns` (C,): (B, H, R, S) or (B, H, T, C)."""
    height = inputs.queries if rows is None else len(rows)
    width = inputs.keys if columns is None else len(columns)
    part = _empty(inputs.q, *inputs.q.shape[:2], height, width)
    if not part.numel():
        return part
    chosen = map_configuration(shared["BLOCK_D"], height, width, inputs.q.dtype)
    grid = -(-height // chosen.block_m) * -(-width // chosen.block_n) * inputs.q.shape[0] * inputs.q.shape[1]
    map_kernel[(grid,)](
        **{name: value for name, value in shared.items() if name != "SPANS"},
        LSE=lse,
        MAP=part,
        ROWS=None if rows is None else rows.contiguous(),
        COLUMNS=None if columns is None else columns.contiguous(),
        rows=height,
        columns=width,
        BLOCK_M=chosen.block_m,
        BLOCK_N=chosen.block_n,
        **chosen.launch_options(),
    )
    return part


def shared_arguments(inputs: AttentionInputs) -> dict[str, Any]:
    """The arguments that F, C and the map's kernel take."""
    q, k = _rows_whole(inputs.q), _rows_whole(inputs.k)
    unit = math.log2(math.e) if inputs.mechanism.name != "relu" else 1.0
    cap = inputs.softcap
    scale = abs(inputs.scale)
    mask = inputs.mask
    return {
        "Q": q if inputs.scale >= 0 else -q,  # F takes a maximum before it scales
        "K": k,
        "THRESHOLDS": _thresholds(inputs),
        "MASK": None if mask is None else mask.contiguous().view(torch.uint8),
        "SPANS": None if mask is None else spans(mask),
        **_strides("q", q),
        **_strides("k", k),
        "queries": inputs.queries,
        "keys": inputs.keys,
        "heads": q.shape[1],
        "group": inputs.group,
        "window": min(inputs.window or 0, inputs.keys),
        "scale": scale * unit if cap is None else scale / cap,
        "softcap": 0.0 if cap is None else cap * unit,
        "D": q.shape[-1],
        "BLOCK_D": padded(q.shape[-1]),
        "MECHANISM": inputs.mechanism.name,
        "CAUSAL": inputs.causal,
        "WINDOWED": inputs.window is not None,
        "CAPPED": cap is not None,
        "HAS_MASK": mask is not None,
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,
    }


def _thresholds(inputs: AttentionInputs) -> Tensor | None:
    """What weighs a sequence's keys: log2 n for sigmoid, n for ReLU; float32 (B,)."""
    if inputs.mechanism.name not in ("sigmoid", "relu"):
        return None
    counts = inputs.key_counts().view(-1)
    return (counts.log2() if inputs.mechanism.name == "sigmoid" else counts).float()


def _rows_whole(x: Tensor) -> Tensor:
    """`x`, copied where the last dimension is strided."""
    return x.detach() if x.stride(-1) == 1 else x.detach().contiguous()


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return {f"{name}_batch": x.stride(0), f"{name}_head": x.stride(1), f"{name}_row": x.stride(2)}


def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a thread block may take."""
    if device.type != "cuda":
        return HOPPER_SHARED_MEMORY
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))


def _grid(inputs: AttentionInputs, rows: int, block: int) -> tuple[int]:
    return (-(-rows // block) * inputs.q.shape[0] * inputs.q.shape[1],)


def _empty(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a kernel fills; tests put NaN in it."""
    return torch.empty(shape, dtype=dtype, device=like.device)
