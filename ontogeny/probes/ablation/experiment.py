"""The experiment `ablation`: the corpus's loss, plain and under four interventions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.probes import massive
from ontogeny.probes.ablation.interventions import damped, means_by_dimension, replaced
from ontogeny.probes.ablation.locate import SINK_EPSILON, Entries, Located, locate
from ontogeny.probes.batches import Batches
from ontogeny.probes.capture.residual import RANKS
from ontogeny.probes.loss import Intervention, corpus_losses, require_head
from ontogeny.probes.probe import ProbeSettings, Variable, variable
from ontogeny.probes.sinks import ACT_MULTIPLE, ACT_PAPER

INTERVENTIONS = ("massive_to_zero", "massive_to_mean", "sinks_removed", "sinks_damped")
ACT_FACTOR = 0.4

PAPER = f"{massive.PAPER}, {ACT_PAPER}"


@dataclass(frozen=True)
class AblationExperiment:
    """The loss without massive activations (arXiv 2402.17762) and without attention sinks (arXiv 2406.15765)."""

    settings: ProbeSettings

    def run(self, model: PreTrainedModel, batches: Batches, impl: str) -> xr.Dataset:
        """The variables of `ablation` in docs/dataset.md, from a pass that locates and one pass a loss.

        NaN where there is nothing to change, or the attention cannot be. Raises UnavailableError for a model that is no
        causal language model, or has no head.
        """
        require_head(model)
        located = locate(model, batches, impl)
        plain = corpus_losses(model, batches)
        interventions = make_interventions(model, located)
        ablated = {name: corpus_losses(model, batches, one) for name, one in interventions.items()}
        sequences = len(plain)
        nothing = np.full(sequences, np.nan)
        losses = np.stack([ablated.get(name, nothing) for name in INTERVENTIONS])
        return xr.Dataset(
            {**_losses(plain, losses), **_located(located, sequences)},
            {"intervention": np.array(INTERVENTIONS, dtype=object), "rank": np.arange(1, RANKS + 1)},
            {
                "ablation_sinks": located.attention,
                "ablation_sink_epsilon": SINK_EPSILON,
                "ablation_act_multiple": ACT_MULTIPLE,
                "ablation_act_factor": ACT_FACTOR,
                "ablation_massive_threshold": massive.MASSIVE_THRESHOLD,
                "ablation_massive_multiple": massive.MASSIVE_MULTIPLE,
            },
        )


def make_interventions(model: PreTrainedModel, located: Located) -> Mapping[str, Intervention]:
    """Those of the interventions that have something to change in this model on this corpus."""
    found: dict[str, Intervention] = {}
    entries = located.massive
    if located.depth != massive.NONE:
        zeros = torch.zeros_like(entries.values)
        found["massive_to_zero"] = replaced(model, located.depth, entries, zeros)
        found["massive_to_mean"] = replaced(model, located.depth, entries, means_by_dimension(entries))
    sinks = located.sinks
    if sinks is not None and sinks.strong.any():
        found["sinks_removed"] = damped(model, sinks.strong, 0.0)
    if sinks is not None and sinks.act.any():
        found["sinks_damped"] = damped(model, sinks.act, ACT_FACTOR)
    return found


def common_dimensions(entries: Entries) -> np.ndarray:
    """The three dimensions with the most entries, most first, of equal ones the smaller; NONE where there are fewer."""
    named, counts = np.unique(entries.places[:, 2].numpy(), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:RANKS]
    return np.pad(named[order], (0, RANKS - len(order)), constant_values=massive.NONE).astype(np.int32)


def _losses(plain: np.ndarray, ablated: np.ndarray) -> dict[str, Variable]:
    """Of each sequence's loss, plain (N,) and ablated (I, N)."""
    sequences = len(plain)
    spread = (ablated - plain).std(axis=1, ddof=1) if sequences > 1 else np.full(len(ablated), np.nan)
    where = "intervention"
    return {
        "loss": variable("", plain.mean(), "next-token cross entropy, mean over all predicted tokens", "nats", PAPER),
        "loss_ablated": variable(where, ablated.mean(axis=1), "the same under an intervention", "nats", PAPER),
        "loss_change_error": variable(
            where,
            spread / np.sqrt(sequences),
            "standard error, over sequences, of the loss under an intervention minus the plain one",
            "nats",
            PAPER,
        ),
    }


def _located(located: Located, sequences: int) -> dict[str, Variable]:
    entries = located.massive
    with_entries = len(entries.places[:, 0].unique()) / sequences
    shares = [with_entries, with_entries, *_shares_of_maps(located)]
    return {
        "ablated_share": variable(
            "intervention",
            np.array(shares),
            "share of the sequences that have massive activations at ablation_depth, or of the maps that have sinks",
            "1",
            PAPER,
        ),
        "ablation_depth": variable(
            "",
            np.array(located.depth, dtype=np.int32),
            "depth at which massive activations first appear in the most sequences",
            "1",
            massive.PAPER,
            none=massive.NONE,
        ),
        "ablation_entries": variable(
            "",
            np.array(len(entries.values), dtype=np.int32),
            "massive activations at ablation_depth, in all sequences",
            "1",
            massive.PAPER,
        ),
        "ablation_dimension": variable(
            "rank",
            common_dimensions(entries),
            "dimensions with the most of these",
            "1",
            massive.PAPER,
            none=massive.NONE,
        ),
    }


def _shares_of_maps(located: Located) -> list[float]:
    if located.sinks is None:
        return [np.nan, np.nan]
    return [_share(located.sinks.strong), _share(located.sinks.act)]


def _share(sinks: Tensor) -> float:
    return float(sinks.any(-1).double().mean())
