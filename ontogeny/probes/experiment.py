"""The protocol of probes that change something and run the model again."""

from __future__ import annotations

from typing import Protocol

import xarray as xr
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.probes.batches import Batches
from ontogeny.probes.probe import ProbeSettings


class UnavailableError(OntogenyError):
    """A model of this kind does not have what an experiment measures; the message says why."""


class Experiment(Protocol):
    """Measures what an intervention does, by forward passes of its own."""

    def __init__(self, settings: ProbeSettings) -> None: ...

    def run(self, model: PreTrainedModel, batches: Batches, impl: str) -> xr.Dataset:
        """The measurements on all sequences, as named variables; the model is left as it was.

        `impl` is the implementation of attention, where statistics of it are taken.

        Raises UnavailableError where they cannot be had of such a model: its checkpoint is then measured without them.
        """
