"""What users have of a model beside the model: its arrays, read off plain transformers."""

from __future__ import annotations

import torch
from torch import nn

import ontogeny

VALUES = {"gpt_neox": "query_key_value", "gpt2": "c_attn", "bert": "self.value"}
PROJECTIONS = {
    "gpt_neox": "attention.dense",
    "gpt2": "attn.c_proj",
    "bert": "attention.output.dense",
    "opt": "out_proj",
}


def arrays_of(model, ids, mask=None, eager=False):
    """The mapping that `measure` takes, of a `tests.models.tiny` one in its own precision.

    Values and hidden states are read off its modules; the maps are those that a capture keeps, or `eager` ones, whose
    softmax many architectures compute in float32.
    """
    family, found = model.config.model_type, {"values": [], "hidden_states": []}
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    handles = [
        module.register_forward_hook(lambda _m, _a, out: found["values"].append(_values(family, out)))
        for name, module in model.named_modules()
        if name.endswith(VALUES.get(family, "v_proj"))
    ]
    handles.append(blocks[0].register_forward_pre_hook(lambda _m, a: found["hidden_states"].append(a[0])))
    handles += [block.register_forward_hook(lambda _m, _a, o: found["hidden_states"].append(o)) for block in blocks]
    if eager:
        model.set_attn_implementation("eager")
        with torch.no_grad():
            out = model(ids, attention_mask=mask, output_attentions=True, use_cache=False)
        found["attention"] = list(out.attentions)
    else:
        with ontogeny.capture(model, maps=range(len(blocks))) as trace:
            model(ids, attention_mask=mask)
        found["attention"] = [layer.map for layer in trace.layers]
    for handle in handles:
        handle.remove()
    weights = {name: module.weight for name, module in model.named_modules() if hasattr(module, "weight")}
    projections = [one for name, one in weights.items() if name.endswith(PROJECTIONS.get(family, "o_proj"))]
    found["output_projections"] = [one.T if family == "gpt2" else one for one in projections]
    if mask is not None:
        found["mask"] = mask
    if getattr(model.config, "sliding_window", None) is not None:
        found["visible"] = _windows(model.config, ids.shape[1], len(blocks))
    return {**found, "input_ids": ids}


def _values(family, out):
    """What a value projection gave (B, T, any) as (B, Hkv, T, dv); every head has a width of 8."""
    if family == "gpt_neox":  # each head's query, key and value side by side
        out = out.unflatten(-1, (4, 3, 8))[..., 2, :].flatten(2)
    if family == "gpt2":  # all queries, all keys, all values
        out = out[..., 64:]
    return out.unflatten(-1, (-1, 8)).transpose(1, 2)


def _windows(config, length, layers):
    apart = torch.arange(length)[:, None] - torch.arange(length)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return [
        (apart >= 0) & (apart < (config.sliding_window if kind == "sliding_attention" else length)) for kind in kinds
    ]
