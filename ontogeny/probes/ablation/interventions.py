"""What is done to a pass: entries of the residual stream replaced, attention on sinks handed on to other keys."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.probes.ablation.locate import Entries
from ontogeny.probes.capture.editing import editing, editing_stream
from ontogeny.probes.loss import Intervention


def replaced(model: PreTrainedModel, at: int, entries: Entries, values: Tensor) -> Intervention:
    """The residual stream at depth `at` gets `values` (E,) at its `entries`, the rest goes on as it is."""

    def inside(sequences: slice) -> AbstractContextManager[None]:
        places, which = entries.of(sequences)

        def edit(depth: int, hidden: Tensor) -> Tensor:
            if depth != at:
                return hidden
            sequence, position, dimension = places.to(hidden.device).T
            changed = hidden.clone()
            changed[sequence, position, dimension] = values[which].to(hidden)
            return changed

        return editing_stream(model, edit)

    return inside


def means_by_dimension(entries: Entries) -> Tensor:
    """For each entry (E,) the signed mean over all entries of its dimension, whatever sequence and position."""
    _, group, count = entries.places[:, 2].unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), dtype=entries.values.dtype).index_add(0, group, entries.values)
    return (total / count)[group]


def damped(model: PreTrainedModel, sinks: Tensor, factor: float) -> Intervention:
    """Attention on the keys `sinks` (N, L, H, T) is multiplied by `factor`; what is freed goes to the other keys."""

    def inside(sequences: slice) -> AbstractContextManager[None]:
        return editing(
            model,
            lambda layer, attention_map: hand_on(
                attention_map, sinks[sequences, layer].to(attention_map.device), factor
            ),
        )

    return inside


def hand_on(attention_map: Tensor, sinks: Tensor, factor: float) -> Tensor:
    """Multiply the columns of `sinks` (B, H, T) by `factor`, and give each row's other keys the rest in proportion.

    `attention_map` (B, H, T, T). A row keeps its sum; one that gives all its attention to sinks stays as it is. With a
    factor of 0.4 this is ACT's calibration (arXiv 2406.15765, section 4).
    """
    column = sinks[:, :, None]
    others = attention_map.masked_fill(column, 0)
    rest = others.sum(-1, keepdim=True)
    freed = (1 - factor) * attention_map.masked_fill(~column, 0).sum(-1, keepdim=True)
    handed = others / torch.where(rest > 0, rest, 1) * (rest + freed)
    return torch.where(rest > 0, torch.where(column, factor * attention_map, handed), attention_map)
