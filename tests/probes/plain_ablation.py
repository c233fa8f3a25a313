"""Interventions written out in loops: one sequence at a time through a model's own eager attention, in float64."""

from __future__ import annotations

import torch
from torch import nn


def double(model):
    """The model in float64, as transformers computes it by itself."""
    model.set_attn_implementation("eager")
    if hasattr(model.config, "num_local_experts"):
        model.set_experts_implementation("eager")
    return model.double()


def blocks_of(model):
    return next(module for module in model.base_model.modules() if isinstance(module, nn.ModuleList))


def plain_losses(model, ids, monkeypatch, edit_map=None, edit_state=None):
    """Transformers' own loss of each sequence; what edits return is gone on with.

    `edit_map(sequence, layer, map (H, T, T))` is called on what eager attention is about to mix values by, which it
    hands to `dropout` first; `edit_state(sequence, depth, state (T, d))` on what goes from block to block.
    """
    losses, layer = [], []

    def dropout(values, *args, **kwargs):
        if values.ndim != 4:
            return values
        layer.append(None)
        return values if edit_map is None else edit_map(sequence, len(layer) - 1, values[0].clone())[None]

    def state(depth, output):
        if edit_state is None:
            return output
        hidden = output[0] if isinstance(output, tuple) else output
        changed = edit_state(sequence, depth, hidden[0].clone())[None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    blocks = blocks_of(model)
    handles = [
        block.register_forward_hook(lambda _m, _a, output, depth=index + 1: state(depth, output))
        for index, block in enumerate(blocks)
    ]
    handles.append(blocks[0].register_forward_pre_hook(lambda _m, args: (state(0, args[0]), *args[1:])))
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "dropout", dropout)
        for sequence, one in enumerate(ids):  # noqa: B007, the hooks read it
            layer.clear()
            losses.append(float(model(one[None], labels=one[None], use_cache=False).loss))
            assert len(layer) == len(blocks)
    for handle in handles:
        handle.remove()
    return losses


def maps_and_states(model, ids, monkeypatch):
    """The maps of each sequence and layer, and the states of each sequence and depth."""
    maps, states = {}, {}
    plain_losses(
        model,
        ids,
        monkeypatch,
        lambda sequence, layer, one: maps.setdefault((sequence, layer), one),
        lambda sequence, depth, one: states.setdefault((sequence, depth), one),
    )
    return maps, states


def score(one, head, key):
    """The attention that a key receives, over the rows that see it, and how many these are."""
    column = one[head, :, key]
    rows = int((column > 0).sum())
    return float(column.sum()) / rows, rows
