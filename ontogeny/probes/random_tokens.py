"""What the geometry of states is on tokens drawn at random: the baseline of `clusters`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import CLUSTERS, run_pass
from ontogeny.probes.clusters import constants, coordinates, geometry, stacked
from ontogeny.probes.experiment import UnavailableError
from ontogeny.probes.probe import ProbeSettings

SEED = 20241010


@dataclass(frozen=True)
class RandomTokensExperiment:
    """The variables of `clusters` of a corpus of the same shape that has no structure."""

    settings: ProbeSettings

    def run(self, model: PreTrainedModel, batches: Batches, impl: str) -> xr.Dataset:
        """The variables of `random_tokens` in docs/dataset.md.

        Raises UnavailableError for a model whose vocabulary or residual stream is not known.
        """
        vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
        if vocabulary is None:
            raise UnavailableError(f"{type(model).__name__} has no vocabulary of tokens, of which some could be drawn")
        drawn = random_ids(batches.ids, vocabulary)
        done = 0

        def run(batch: Tensor) -> dict[str, Tensor]:
            nonlocal done
            ids = drawn[done : done + len(batch)].to(batch.device)
            trace = run_pass(model, ids, needs={CLUSTERS}, impl=impl)
            if not trace.depths:
                raise UnavailableError(f"the residual stream is {trace.residual}")
            done += len(batch)
            states = [depth.clusters for depth in trace.depths if depth.clusters is not None]
            return {name: values.cpu() for name, values in stacked(states).items()}

        parts = batches.each(run)
        arrays = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        variables = geometry(arrays, "_random", ", of random tokens")
        attributes = constants(self.settings.length) | {"random_tokens_seed": SEED}
        return xr.Dataset(variables, coordinates(arrays), attributes)


def random_ids(ids: Tensor, vocabulary: int) -> Tensor:
    """Uniform ids of the shape of `ids` (N, T), seeded; a first token that all sequences share stays."""
    drawn = torch.from_numpy(np.random.default_rng(SEED).integers(vocabulary, size=tuple(ids.shape)))
    if bool((ids[:, 0] == ids[0, 0]).all()):
        drawn[:, 0] = ids[0, 0]
    return drawn
