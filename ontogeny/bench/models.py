"""One forward pass of a model with its statistics: every way to get them, checked first and then timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from ontogeny.bench.by_hand import from_transformer_lens, from_transformers, lens_bridge
from ontogeny.bench.record import Record, refuse_if_wrong
from ontogeny.bench.timing import measure_costs
from ontogeny.probes.capture import Trace, run_pass
from ontogeny.probes.scores import sink_scores

PLAIN = "plain forward, SDPA"
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ModelCase:
    """A random GPT-NeoX model and the tokens that it is run on; the default has the shape of Pythia-70M."""

    layers: int = 6
    width: int = 512
    heads: int = 8
    vocabulary: int = 50304
    batch: int = 4
    length: int = 512

    def __str__(self) -> str:
        return f"GPT-NeoX L{self.layers} width {self.width} H{self.heads}, {self.batch} x {self.length} tokens"

    def model(self, attention: str, device: torch.device) -> PreTrainedModel:
        """The model, the same weights for every attention implementation; float32."""
        config = GPTNeoXConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
        )
        torch.manual_seed(0)
        model: Any = GPTNeoXForCausalLM(config)
        model.set_attn_implementation(attention)
        return model.to(device).eval().requires_grad_(False)


def bench_models(case: ModelCase, device: torch.device, repeats: int) -> list[Record]:
    """A record for each way to run the case. Raises OntogenyError where one's numbers are wrong."""
    ids = torch.randint(3, case.vocabulary, (case.batch, case.length), generator=torch.Generator().manual_seed(0))
    ids = ids.to(device)
    model, eager = case.model("sdpa", device), case.model("eager", device)
    measured: dict[str, Callable[[], dict[str, Tensor]]] = {
        "ontogeny capture": lambda: _captured(run_pass(model, ids)),
        "ontogeny capture + SDPA's output": lambda: _captured(run_pass(model, ids, output="sdpa")),
        "transformers, maps kept + reductions": lambda: from_transformers(eager, ids),
    }
    impossible = {}
    lens = "TransformerLens cache + reductions"
    if find_spec("transformer_lens") is None:
        impossible[lens] = "transformer-lens is not installed"
    else:
        bridge = lens_bridge(case.model("eager", device))
        measured[lens] = lambda: from_transformer_lens(bridge, ids)
    with torch.no_grad():
        expected = from_transformers(case.model("eager", device).double(), ids)
        for name, run in measured.items():
            refuse_if_wrong(f"{name} of {case}", run(), expected, TOLERANCE)
        del expected
        costs = measure_costs(
            {PLAIN: lambda: model.base_model(input_ids=ids, use_cache=False), **measured}, device, repeats
        )
    records = [Record.of(str(case), name, cost, costs[PLAIN]) for name, cost in costs.items()]
    return [*records, *(Record(str(case), name, note=reason) for name, reason in impossible.items())]


def _captured(trace: Trace) -> dict[str, Tensor]:
    heads = {
        name: torch.stack([getattr(layer, name) for layer in trace.layers], 1)
        for name in ("entropy", "row_max", "participation", "distance")
    }
    states = {
        name: torch.stack([getattr(depth, name) for depth in trace.depths[:-1]], 1)
        for name in ("top_activation", "median_activation")
    }
    return {"sink_score": sink_scores(trace).alpha, **heads, **states}
