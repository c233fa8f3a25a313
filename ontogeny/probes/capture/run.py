"""One forward pass, hooked: the Trace that every probe reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.attention import AttentionRecorder
from ontogeny.probes.capture.modules import find_attention, find_blocks
from ontogeny.probes.capture.residual import ResidualRecorder
from ontogeny.probes.capture.trace import CAPTURED, Trace

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
    attention = find_attention(base, blocks)
    attention_recorder = None if isinstance(attention, str) else AttentionRecorder(attention)
    residual_recorder = ResidualRecorder(None if bool(mask.all()) else mask.bool())
    with ExitStack() as hooks:
        if ATTENTION in needs and attention_recorder is not None:
            hooks.enter_context(attention_recorder.hooked(base))
        if RESIDUAL in needs:
            hooks.enter_context(residual_recorder.hooked(blocks))
        if on_block is not None:
            hooks.enter_context(_announced(blocks, on_block))
        last = base(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
    _check_finite(last, mask)
    _check_blocks(residual_recorder, blocks, needs)
    layers = attention_recorder.finish() if ATTENTION in needs and attention_recorder is not None else ()
    return Trace(
        layers=layers,
        depths=tuple(residual_recorder.depths),
        attention=f"unavailable: {attention}" if isinstance(attention, str) else CAPTURED,
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


def _check_finite(last: Tensor, mask: Tensor) -> None:
    if not bool(last[mask.bool()].isfinite().all()):
        raise OntogenyError(
            "the forward pass gave values that are not finite: expected finite weights and a dtype with enough range; "
            "check the checkpoint, or scan with --dtype float32"
        )


def _check_blocks(recorder: ResidualRecorder, blocks: list[nn.Module], needs: frozenset[str]) -> None:
    if RESIDUAL in needs and len(recorder.depths) != len(blocks) + 1:
        raise OntogenyError(
            f"{len(recorder.depths) - 1} block outputs were seen in one pass, expected {len(blocks)}: "
            "the residual stream would be measured wrongly"
        )
