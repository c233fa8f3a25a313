"""What the probes are proved against: whole maps, raw states, values and weights, in float64, without Ontogeny."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.probes import PROBES, ProbeSettings, make_probes
from tests.models import tiny, token_ids

SEQUENCES, LENGTH = 5, 40
LAYERS, HEADS, WIDTH = 3, 4, 8
FLOATS = (torch.float32, torch.float64)

# What each family calls the modules that make values and that its attention is handed on to, read off its source.
VALUES = {"gpt_neox": "query_key_value", "gpt2": "attn.c_attn", "bert": "attention.self.value"}
PROJECTIONS = {
    "gpt_neox": "attention.dense",
    "gpt2": "attn.c_proj",
    "bert": "attention.output.dense",
    "opt": "out_proj",
}


def measured(model, names=("sinks", "waivers", "massive"), length=LENGTH, positions=16, batch_size=2, ids=None):
    """What a scan measures of one checkpoint, on random tokens or on `ids`."""
    ids = token_ids(SEQUENCES, length) if ids is None else ids
    corpus = Corpus("random", ids.numpy(), "auto")
    probes = make_probes(names, ProbeSettings(ids.shape[1], positions))
    return measure_checkpoint(model, corpus, probes, batch_size, Progress())


def exact(model):
    """The model in float64, all of it."""
    model = model.double()
    if model.config.model_type == "gpt_oss":
        model.set_experts_implementation("eager")  # its grouped product knows no float64
    return model


@contextmanager
def softmax_in_float64() -> Iterator[None]:
    """Eager attention takes its softmax in float32 whatever the model's dtype is; inside, in the scores' own."""
    original = torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda scores, dim, dtype=None: original(scores, dim=dim)
    try:
        yield
    finally:
        torch.nn.functional.softmax = original


@dataclass(frozen=True)
class Plain:
    """Maps (N, L, H, T, T), the raw residual stream (N, L + 1, T, d), values (N, L, H, T, 8), and each layer's W_O."""

    maps: np.ndarray
    states: np.ndarray
    values: np.ndarray
    projections: list[np.ndarray]


def plain_pass(model, ids=None) -> Plain:
    """One eager pass in float64; a value that query heads share stands at each."""
    model, ids = exact(model), token_ids(SEQUENCES, LENGTH) if ids is None else ids
    model.set_attn_implementation("eager")
    family = model.config.model_type
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    states, values, projections, handles = [], [], [], []

    def keep(into, output):
        into.append(output[0] if isinstance(output, tuple) else output)

    handles.append(blocks[0].register_forward_pre_hook(lambda _m, args: states.append(args[0])))
    handles += [block.register_forward_hook(lambda _m, _a, out: keep(states, out)) for block in blocks]
    for name, module in model.named_modules():
        if name.endswith(VALUES.get(family, "v_proj")):
            handles.append(module.register_forward_hook(lambda _m, _a, out: keep(values, out)))
        if name.endswith(PROJECTIONS.get(family, "o_proj")):
            projections.append((module.weight.T if family == "gpt2" else module.weight).numpy())
    with torch.inference_mode(), softmax_in_float64():
        out = model(ids, output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    maps = torch.stack(out.attentions, 1)[..., : ids.shape[1]].numpy()
    split = torch.stack([_by_head(family, one) for one in values], 1).numpy()
    assert len(projections) == split.shape[1] == LAYERS
    return Plain(maps, torch.stack(states, 1).numpy(), split, projections)


def _by_head(family, out):
    if family == "gpt_neox":  # each head's query, key and value side by side
        out = out.unflatten(-1, (HEADS, 3, WIDTH))[..., 2, :].flatten(2)
    if family == "gpt2":  # all queries, all keys, all values
        out = out.chunk(3, dim=-1)[2]
    by_head = out.unflatten(-1, (-1, WIDTH)).transpose(1, 2)
    return by_head.repeat_interleave(HEADS // by_head.shape[1], dim=1)


@cache
def plain_of(family) -> Plain:
    """The plain pass of the family's random model."""
    return plain_pass(tiny(family))


@cache
def measured_of(family, dtype):
    """What every probe that reads traces measures of the family's random model, at all positions."""
    return measured(in_dtype(family, dtype), names=tuple(PROBES), positions=None)


def close(found, expected, family, dtype, message=""):
    """Assert that numbers are the plain ones: in float64 to 1e-9, with RMS norms to 1e-7, and in float32 to 1e-5.

    Transformers takes RMS norms in float32 whatever the dtype is, and rounds there.
    """
    exactly = 1e-9 if family in ("gpt_neox", "gpt2", "opt", "bert") else 1e-7
    np.testing.assert_allclose(found, expected, rtol=exactly if dtype == torch.float64 else 1e-5, err_msg=message)


def in_dtype(family, dtype):
    """The family's random model, to be measured in this dtype."""
    return exact(tiny(family)) if dtype == torch.float64 else tiny(family)
