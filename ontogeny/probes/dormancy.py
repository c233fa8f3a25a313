"""Dormant heads: they rest on one key, and the model does as well without them (arXiv 2410.13835)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import ATTENTION, run_pass
from ontogeny.probes.capture.editing import editing
from ontogeny.probes.experiment import UnavailableError
from ontogeny.probes.loss import corpus_losses, require_causal, require_head
from ontogeny.probes.probe import ProbeSettings, mean_where, variable
from ontogeny.probes.scores import sink_scores

DORMANT_SHARE = 0.8
DORMANT_LOSS = 0.001

PAPER = "2410.13835"


@dataclass(frozen=True)
class DormancyExperiment:
    """What the loss loses without each head that has a strong sink (arXiv 2410.13835)."""

    settings: ProbeSettings

    def run(self, model: PreTrainedModel, batches: Batches, impl: str) -> xr.Dataset:
        """The variables of `dormancy` in docs/dataset.md, from a pass that finds candidates and one for each of them.

        Raises UnavailableError for a model that is no causal language model, has no head, or attends unseen.
        """
        require_head(model)
        share = top_sink_shares(model, batches, impl)
        change = np.full(share.shape, np.nan)
        candidates = np.argwhere(share > DORMANT_SHARE)
        if len(candidates):
            plain = corpus_losses(model, batches).mean()
        for layer, head in candidates:
            change[layer, head] = loss_without(model, batches, int(layer), int(head)) - plain
        where = "layer head"
        variables = {
            "top_sink_share": variable(where, share, "attention on the top sink, mean over sequences", "1", PAPER),
            "head_loss_change": variable(where, change, "loss without the head minus the plain loss", "nats", PAPER),
            "dormant": variable(
                where,
                (np.abs(change) < DORMANT_LOSS).astype(np.int8),
                "whether the head is dormant",
                "1",
                PAPER,
                flag_values=[0, 1],
                flag_meanings="no yes",
            ),
        }
        layers, heads = share.shape
        constants = {"dormant_share": DORMANT_SHARE, "dormant_loss": DORMANT_LOSS}
        return xr.Dataset(variables, {"layer": np.arange(layers), "head": np.arange(heads)}, constants)


def top_sink_shares(model: PreTrainedModel, batches: Batches, impl: str) -> np.ndarray:
    """The highest sink score among eligible keys, mean over the sequences that have one: (L, H); NaN for none."""

    def run(batch: Tensor) -> Tensor:
        trace = run_pass(model, batch, needs={ATTENTION}, impl=impl)
        if not trace.layers:
            raise UnavailableError(f"the attention is {trace.attention}")
        require_causal(model, trace)
        scores = sink_scores(trace)
        return scores.alpha.masked_fill(~scores.eligible, -torch.inf).amax(-1).cpu()

    top = torch.cat(batches.each(run)).numpy()
    return mean_where(np.isfinite(top), top)


def loss_without(model: PreTrainedModel, batches: Batches, layer: int, head: int) -> float:
    """The mean loss where this head's output is 0."""

    def silence(at: int, attention_map: Tensor) -> Tensor:
        if at != layer:
            return attention_map
        return attention_map.index_fill(1, torch.tensor([head], device=attention_map.device), 0)

    return float(corpus_losses(model, batches, lambda _: editing(model, silence)).mean())
