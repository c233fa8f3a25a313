"""Passes in which position 0 and a slot m have exchanged their tokens, their position encodings, or both."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.kernels.attention import Implementation
from ontogeny.probes.capture import ATTENTION, CAPTURED, Trace, capture
from ontogeny.probes.experiment import UnavailableError

# By how much attention differs, relative to itself, where nothing but rounding does: in the very same computation, and
# in one whose keys have changed their order.
ROUNDING, REORDERED = 1e-5, 1e-3


class Encodings(IntEnum):
    """What can be done with a model's position encodings, as found by trying."""

    EXCHANGED = 0  # position_ids move them
    ABSENT = 1  # there are none
    FIXED = 2  # there are some, and position_ids are not taken, or do nothing


@dataclass(frozen=True)
class Exchange:
    """Runs a model on sequences of `length` tokens in which position 0 and `slot` may be exchanged.

    `first` is the position id of the first token, None where the model is given no position ids.
    """

    model: PreTrainedModel
    length: int
    slot: int
    impl: Implementation = "auto"
    first: int | None = None

    def run(self, ids: Tensor, *, tokens: bool = False, encodings: bool = False) -> Trace:
        """The attention of a pass on `ids` (B, T), with the columns of keys 0 and `slot`.

        Raises UnavailableError where it cannot be seen, or keys are hidden by a function besides the model's own.
        """
        order = self._order(ids.device)
        positions = {}
        if self.first is not None:
            every = self.first + torch.arange(self.length, device=ids.device)
            positions["position_ids"] = (every[order] if encodings else every).expand(len(ids), -1)
        with capture(self.model, needs={ATTENTION}, columns=(0, self.slot), impl=self.impl) as trace:
            self.model.base_model(
                input_ids=ids[:, order] if tokens else ids,
                # Without a mask transformers takes positions that do not count up for packed sequences.
                attention_mask=torch.ones_like(ids),
                use_cache=False,
                return_dict=True,
                **positions,
            )
        if trace.attention != CAPTURED:
            raise UnavailableError(trace.attention.removeprefix("unavailable: "))
        if "mask_mod" in trace.notes:
            raise UnavailableError("keys are hidden by a mask_mod, so that rows that see both keys are not known")
        return trace

    def _order(self, device: torch.device) -> Tensor:
        order = torch.arange(self.length, device=device)
        order[0], order[self.slot] = self.slot, 0
        return order


def find_exchange(
    model: PreTrainedModel, ids: Tensor, slot: int, impl: Implementation = "auto"
) -> tuple[Exchange, Encodings]:
    """How to exchange positions 0 and `slot` of this model, found by passes on one sequence, `ids` (1, T).

    Encodings can be exchanged where explicit position ids leave the pass as it is, and exchanged ones change it. They
    are absent where exchanging the tokens exchanges the attention that block 0 pays them: there a key is its token and
    its encoding, and nothing else.
    """
    plain = Exchange(model, ids.shape[1], slot, impl)
    before = _columns(plain.run(ids))
    for first in _first_positions(model, plain.length):
        explicit = Exchange(model, plain.length, slot, impl, first)
        if _same(_columns(explicit.run(ids)), before):
            if not _same(_columns(explicit.run(ids, encodings=True)), before):
                return explicit, Encodings.EXCHANGED
            break
    swapped = _columns(plain.run(ids, tokens=True))
    later = slice(slot + 1, None)
    follows = _same([swapped[0][:, :, later].flip(-1)], [before[0][:, :, later]], REORDERED)
    return plain, Encodings.ABSENT if follows else Encodings.FIXED


def _first_positions(model: PreTrainedModel, length: int) -> list[int]:
    """Position ids that the first token may have by default: 0, or, as in RoBERTa, the one after the padding's id."""
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        return []
    config = model.config.get_text_config()
    after = (getattr(config, "pad_token_id", None) or 0) + 1
    fits = after + length <= getattr(config, "max_position_embeddings", 0)
    return [0, after] if fits else [0]


def _columns(trace: Trace) -> list[Tensor]:
    return [layer.columns for layer in trace.layers if layer.columns is not None]


def _same(one: list[Tensor], other: list[Tensor], tolerance: float = ROUNDING) -> bool:
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance * 1e-3) for a, b in zip(one, other, strict=True))
