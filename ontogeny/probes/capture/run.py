"""One forward pass, hooked: the Trace that every probe reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.attention import AttentionRecorder
from ontogeny.probes.capture.modules import find_attention, find_blocks, outside_the_interface
from ontogeny.probes.capture.residual import ResidualRecorder
from ontogeny.probes.capture.trace import CAPTURED, NOT_ASKED, Trace

ATTENTION = "attention"
RESIDUAL = "residual"


@torch.inference_mode()
def capture(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    needs: frozenset[str] = frozenset({ATTENTION, RESIDUAL}),
    on_block: Callable[[int], None] | None = None,
) -> Trace:
    """Run `model`'s base once on `input_ids` (B, T) and reduce its attention and residual stream as it runs.

    `attention_mask` (B, T) is 1 at tokens and 0 at padding. `needs` names what to record. `on_block` is told the index
    of each block as the pass leaves it. The model is left as it was. No T x T map is kept. Where the attention cannot
    be hooked, `Trace.attention` gives the reason and the residual stream is measured all the same.

    Raises OntogenyError where a part of the attention would be missed or misread, or activations are not finite.
    """
    base = cast(PreTrainedModel, model.base_model)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    blocks = find_blocks(base)
    found = find_attention(base, blocks) if ATTENTION in needs else NOT_ASKED
    attention = None if isinstance(found, str) else AttentionRecorder(found)
    residual = ResidualRecorder(None if bool(mask.all()) else mask.bool())
    with ExitStack() as hooks:
        if attention is not None:
            hooks.enter_context(attention.hooked(base))
        if RESIDUAL in needs:
            hooks.enter_context(residual.hooked(blocks))
        if on_block is not None:
            hooks.enter_context(_announced(blocks, on_block))
        output = base(input_ids=input_ids, attention_mask=mask, use_cache=False, return_dict=True)
    _check_finite(output, mask)
    _check_blocks(residual, blocks, needs)
    if attention is not None and not attention.ran and not attention.issued:
        attention, found = None, outside_the_interface(base)
    return Trace(
        layers=() if attention is None else attention.finish(),
        depths=tuple(residual.depths),
        attention=found if isinstance(found, str) else CAPTURED,
    )


@contextmanager
def _announced(blocks: list[nn.Module], on_block: Callable[[int], None]) -> Iterator[None]:
    handles = [
        block.register_forward_hook(lambda *_, index=index: on_block(index)) for index, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_finite(output: ModelOutput, mask: Tensor) -> None:
    last = output.get("last_hidden_state")
    if last is None:
        raise OntogenyError(f"the model gave a {type(output).__name__} without a last hidden state: cannot be measured")
    if not bool(last[mask.bool()].isfinite().all()):
        raise OntogenyError(
            "the forward pass gave values that are not finite: expected sound weights, and a dtype with their range "
            "(float16 overflows where float32 does not)"
        )


def _check_blocks(recorder: ResidualRecorder, blocks: list[nn.Module], needs: frozenset[str]) -> None:
    if RESIDUAL in needs and len(recorder.depths) != len(blocks) + 1:
        raise OntogenyError(
            f"{len(recorder.depths) - 1} block outputs were seen in one pass, expected {len(blocks)}: "
            "the residual stream would be measured wrongly"
        )
