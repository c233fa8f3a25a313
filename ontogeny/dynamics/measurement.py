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
from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.probes import Probe
from ontogeny.version import __version__

UNAUDITED = "unaudited"

CHECKPOINT_COORDINATES = {
    "step": ("training step, -1 where the source states none", "steps"),
    "tokens": ("tokens seen in training", "tokens"),
}


@dataclass(frozen=True)
class Measurement:
    """The corpus, the probes and the settings of a scan, and the run whose checkpoints it measures."""

    series: str
    arch: ArchSpec
    quantisation: str
    corpus: Corpus
    settings: ScanSettings
    probes: dict[str, Probe]
    batch_size: int

    def of(
        self,
        model: PreTrainedModel,
        name: str,
        step: int,
        *,
        tokens: float | None = None,
        revision: str = "",
        progress: Progress | None = None,
    ) -> xr.Dataset:
        """One checkpoint's dataset, with the dimension `checkpoint` of size 1, its coordinates and all attributes."""
        progress = progress or Progress()
        dataset = measure_checkpoint(model, self.corpus, self.probes, self.batch_size, progress, self.settings.impl)
        if dataset.attrs["attention"].startswith("unavailable"):
            progress.note(f"{name}: attention is {dataset.attrs['attention']}")
        labels = {
            "step": np.array([step], dtype=np.int64),
            "tokens": np.array([np.nan if tokens is None else tokens]),
            "revision": np.array([revision], dtype=object),
            "verdict": np.array([UNAUDITED], dtype=object),
        }
        named = dataset.expand_dims(checkpoint=np.array([name], dtype=object))
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
