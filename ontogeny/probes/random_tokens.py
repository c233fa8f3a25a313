"""What the geometry of states is without a text: on random tokens, and on the text's own in a random order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import CLUSTERS, run_pass
from ontogeny.probes.clusters import constants, coordinates, counts, geometry, stacked
from ontogeny.probes.experiment import UnavailableError
from ontogeny.probes.probe import ProbeSettings

SEED = 20241010


@dataclass(frozen=True)
class RandomTokensExperiment:
    """The variables of `clusters` of two corpora of the same shape that say nothing."""

    settings: ProbeSettings

    def run(self, model: PreTrainedModel, batches: Batches, impl: str) -> xr.Dataset:
        """The variables of `random_tokens` in docs/dataset.md.

        Raises UnavailableError for a model whose vocabulary or residual stream is not known.
        """
        vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
        if vocabulary is None:
            raise UnavailableError(f"{type(model).__name__} has no vocabulary of tokens, of which some could be drawn")
        ids = batches.ids
        random = _measured(model, batches, random_ids(ids, vocabulary), impl)
        reordered = _measured(model, batches, reordered_ids(ids), impl)
        sets = (
            (random, "_random", ", of random tokens"),
            (reordered, "_reordered", ", of the same tokens in random order"),
        )
        variables = {name: values for one in sets for name, values in (geometry(*one) | counts(*one)).items()}
        attributes = constants(self.settings.length) | {"random_tokens_seed": SEED}
        return xr.Dataset(variables, coordinates(random), attributes)


def _measured(model: PreTrainedModel, batches: Batches, ids: Tensor, impl: str) -> Mapping[str, np.ndarray]:
    """The fields of `ClusterTrace` on `ids` (N, T), which stand in for those of the batches."""
    done = 0

    def run(batch: Tensor) -> dict[str, Tensor]:
        nonlocal done
        drawn = ids[done : done + len(batch)].to(batch.device)
        trace = run_pass(model, drawn, needs={CLUSTERS}, impl=impl)
        if not trace.depths:
            raise UnavailableError(f"the residual stream is {trace.residual}")
        done += len(batch)
        states = [depth.clusters for depth in trace.depths if depth.clusters is not None]
        return {name: values.cpu() for name, values in stacked(states).items()}

    parts = batches.each(run)
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def random_ids(ids: Tensor, vocabulary: int) -> Tensor:
    """Uniform ids of the shape of `ids` (N, T), seeded; a first token that all sequences share stays."""
    start = _shared_start(ids)
    drawn = torch.from_numpy(np.random.default_rng(SEED).integers(vocabulary, size=tuple(ids.shape)))
    drawn[:, :start] = ids[:, :start].cpu()
    return drawn


def reordered_ids(ids: Tensor) -> Tensor:
    """Each sequence of `ids` (N, T) in a random order of its own, seeded; a first token that all share stays first."""
    start = _shared_start(ids)
    rest = np.random.default_rng(SEED).permuted(ids[:, start:].cpu().numpy(), axis=1)
    return torch.cat([ids[:, :start].cpu(), torch.from_numpy(rest)], dim=1)


def _shared_start(ids: Tensor) -> int:
    """1 where all sequences (N, T) begin with one token, as with a BOS, else 0."""
    return int((ids[:, 0] == ids[0, 0]).all())
