"""What the kernels can be asked for, and what is made of what they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.chosen import map_columns, map_rows
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.mechanisms import ScoredRows
from ontogeny.kernels.output import sdpa_output
from ontogeny.kernels.stats import AttentionStats
from ontogeny.kernels.values import causal_distance, value_norm, value_weighted_norm
from ontogeny.kernels.visibility import count_visible

if TYPE_CHECKING:
    from ontogeny.kernels.triton.launch import Swept

LARGEST_HEAD = 256
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MECHANISMS = ("softmax", "softmax_sink", "sigmoid", "relu")


def out_of_reach(inputs: AttentionInputs) -> str | None:
    """Why the kernels are not made for these inputs, or None."""
    size = max(inputs.q.shape[-1], inputs.v.shape[-1])
    if inputs.q.dtype not in _DTYPES:
        return f"expected float32, float16 or bfloat16, got {str(inputs.q.dtype).removeprefix('torch.')}"
    if inputs.mechanism.name not in _MECHANISMS:
        return f"expected one of the mechanisms {', '.join(_MECHANISMS)}, got {inputs.mechanism.name}"
    if size > LARGEST_HEAD:
        return f"expected heads of at most {LARGEST_HEAD} numbers, got {size}"
    for name in ("bias", "mask_mod"):
        if getattr(inputs, name) is not None:
            return f"expected no {name}, got one"
    return None


@torch.no_grad()
def triton_attention(inputs: AttentionInputs) -> AttentionStats:
    """Attention and its statistics by the kernels F and C, not differentiable.

    Raises OntogenyError where they are not made for the inputs, where triton is not installed, and on a CPU, unless
    TRITON_INTERPRET=1 was set when this process first came here.
    """
    reason = out_of_reach(inputs)
    if reason is not None:
        raise OntogenyError(f"impl: triton has no kernel for this: {reason}; impl='blocked' takes it")
    try:
        from ontogeny.kernels.triton.launch import INTERPRETED, sweep
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise OntogenyError(
            "impl: triton expected the package triton, which is not installed: pip install 'ontogeny[triton]', or "
            "take impl='blocked'"
        ) from error
    if not (inputs.q.is_cuda or INTERPRETED):
        raise OntogenyError(
            f"impl: triton expected q on a GPU, got {inputs.q.device}: move it there, or take impl='blocked' "
            "(TRITON_INTERPRET=1 in the environment runs the kernels on a CPU, slowly, to test them)"
        )
    output = sdpa_output(inputs) if inputs.output == "sdpa" else None
    return _assemble(inputs, sweep(inputs), output)


def _assemble(inputs: AttentionInputs, swept: Swept, output: Tensor | None) -> AttentionStats:
    visible_rows, seeing = count_visible(inputs)
    norm = value_norm(inputs)
    if swept.distance is None:
        distance = causal_distance(swept.mass, swept.column_mass, seeing)
    else:
        distance = (swept.distance.double().sum(-1) / seeing.clamp_min(1)).float()
    threshold = swept.lse[..., None]
    if not inputs.mechanism.has_lse:
        threshold = inputs.mechanism.threshold(ScoredRows(threshold, inputs.key_counts(), None))
    output = swept.output if output is None else output
    assert output is not None
    return AttentionStats(
        output=output,
        entropy=swept.entropy,
        row_max=swept.row_max,
        participation=swept.participation,
        mass=swept.mass,
        column_mass=swept.column_mass,
        visible_rows=visible_rows.float(),
        distance=distance,
        value_norm=norm,
        value_weighted_norm=value_weighted_norm(swept.column_mass, norm, seeing),
        lse=swept.lse if inputs.mechanism.has_lse else None,
        rows=None if inputs.rows is None else map_rows(inputs, inputs.rows),
        columns=None if inputs.columns is None else map_columns(inputs, inputs.columns, threshold),
    )
