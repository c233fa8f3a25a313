"""What every checkpoint of one scan is measured with, and what its dataset says of that."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
import transformers
import xarray as xr
from transformers import PreTrainedModel

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.audit.examine import UNAUDITED
from ontogeny.dynamics.audit.fingerprint import project_weights
from ontogeny.dynamics.audit.verdicts import PROJECTION
from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.probes import Probes
from ontogeny.probes.capture import NOT_ASKED
from ontogeny.version import __version__

CHECKPOINT_COORDINATES = {
    "step": ("training step, -1 where the source states none", "steps"),
    "tokens": ("tokens seen in training", "tokens"),
    "batch_size": ("sequences a forward pass, the last one perhaps of fewer", "sequences"),
}

_PROJECTION_ATTRIBUTES = {
    "long_name": "seeded random projections of the flattened weights, by whose differences weights are told apart",
    "units": "1",
    "source": "Johnson-Lindenstrauss (Johnson and Lindenstrauss 1984), with signs (Achlioptas 2003)",
}


@dataclass(frozen=True)
class Measurement:
    """The corpus, the probes and the settings of a scan, and the run whose checkpoints it measures."""

    series: str
    arch: ArchSpec
    quantisation: str
    corpus: Corpus
    settings: ScanSettings
    probes: Probes
    batch_size: int

    def of(
        self,
        model: PreTrainedModel,
        name: str,
        step: int,
        *,
        tokens: float | None = None,
        revision: str = "",
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> xr.Dataset:
        """One checkpoint's dataset, with the dimension `checkpoint` of size 1, its coordinates and all attributes.

        `batch_size` is a smaller one than the measurement's own, where memory is known not to suffice for that.
        """
        progress = progress or Progress()
        size = self.batch_size if batch_size is None else batch_size
        dataset = measure_checkpoint(model, self.corpus, self.probes, size, progress, self.settings.impl)
        attention = dataset.attrs.get("attention", NOT_ASKED)
        if attention.startswith("unavailable"):
            progress.note(f"{name}: attention is {attention}")
        labels = {
            "step": np.array([step], dtype=np.int64),
            "tokens": np.array([np.nan if tokens is None else tokens]),
            "revision": np.array([revision], dtype=object),
            "verdict": np.array([UNAUDITED], dtype=object),
            "batch_size": np.array([int(dataset["batch_size"])], dtype=np.int64),
        }
        dataset[PROJECTION] = ("projection", project_weights(model), _PROJECTION_ATTRIBUTES)
        named = dataset.drop_vars("batch_size").expand_dims(checkpoint=np.array([name], dtype=object))
        coordinates = {label: ("checkpoint", values) for label, values in labels.items()}
        labelled = named.assign_coords(coordinates).assign_attrs(self.attributes())
        for label, (long_name, units) in CHECKPOINT_COORDINATES.items():
            labelled[label].attrs.update(long_name=long_name, units=units)
        return labelled

    def attributes(self) -> dict[str, object]:
        """What every dataset says of how it was made."""
        return {
            **self.settings.to_dict(),
            "corpus": self.corpus.name,
            "positions": "all" if self.settings.positions is None else self.settings.positions,
            "corpus_skipped": self.corpus.skipped,
            "series": self.series,
            "arch": json.dumps(self.arch.to_dict()),
            "quantisation": self.quantisation,
            "ontogeny_version": __version__,
            "torch_version": torch.__version__,
            "transformers_version": transformers.__version__,
        }
