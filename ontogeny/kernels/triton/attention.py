"""What the kernels can be asked for, and what is made of what they leave."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.output import sdpa_output
from ontogeny.kernels.stats import AttentionStats
from ontogeny.kernels.visibility import count_visible

if TYPE_CHECKING:
    from ontogeny.kernels.triton.launch import Swept

HOPPER = (9, 0)
LARGEST_HEAD = 256
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MECHANISMS = ("softmax", "softmax_sink", "sigmoid", "relu")


def triton_was_run_on(device: torch.device) -> bool:
    """Whether the device is of a kind that the kernels have been run on, and triton is installed."""
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) == HOPPER


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
    output = swept.output if output is None else output
    assert output is not None
    return AttentionStats(
        output=output,
        entropy=swept.entropy,
        row_max=swept.row_max,
        participation=swept.participation,
        mass=swept.mass,
        column_mass=swept.column_mass,
        visible_rows=_visible_rows(inputs),
        distance=swept.distance,
        value_norm=swept.value_norm.repeat_interleave(inputs.group, 1) if inputs.group > 1 else swept.value_norm,
        value_weighted_norm=swept.value_weighted_norm,
        lse=swept.lse if inputs.mechanism.has_lse else None,
        rows=swept.rows,
        columns=swept.columns,
    )


def _visible_rows(inputs: AttentionInputs) -> Tensor:
    """Of every key, the same for all heads: a view (B, H, S) of (B, 1, S), float32."""
    seen, _ = count_visible(inputs)
    return seen[:, :1].float().expand_as(seen)
