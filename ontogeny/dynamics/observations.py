"""What an observer has measured of a training so far, in a scan folder or in memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from torch import nn

from ontogeny.dynamics.audit.fingerprint import project_weights
from ontogeny.dynamics.audit.verdicts import PROJECTION
from ontogeny.dynamics.opening import Scan, join_checkpoints, open_scan
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.dynamics.store import ScanStore, measured_names, refuse_other_shape
from ontogeny.errors import OntogenyError

PREFIX = "step"
SAME = 1e-6  # of the weights' norm; sums in float64 err by about 1e-13


class Observations:
    """The datasets of measured steps by checkpoint name, and why the others failed."""

    def __init__(self, out: Path | None) -> None:
        self.store = None if out is None else ScanStore(out)
        self.parts: dict[str, xr.Dataset] = {}
        self.failures: dict[str, str] = {}
        self.settings: ScanSettings | None = None

    def begin(self, settings: ScanSettings) -> set[int]:
        """Go on with what is there, all of it measured with `settings`, and return its steps.

        Raises OntogenyError where it was measured with other settings, or the folder cannot be used.
        """
        if self.store is None:
            if self.parts and self.settings is not None and (differences := self.settings.differences(settings)):
                raise OntogenyError(
                    f"this observer has measured with other settings ({'; '.join(differences)}), and numbers of both "
                    "kinds must not mix: use a new Observer"
                )
        else:
            with self.store.driven(settings):
                pass
        self.settings = settings
        return {int(name.removeprefix(PREFIX)) for name in self._names()}

    def refuse_other_weights(self, model: nn.Module, step: int) -> None:
        """Raise OntogenyError where `model` does not have the weights that were measured at `step`.

        They are told apart by their projections.
        """
        kept, found = self.scan.dataset.sel(step=step)[PROJECTION].values, project_weights(model)
        if np.linalg.norm(found - kept) > SAME * np.linalg.norm(kept):
            raise OntogenyError(
                f"{self._place()} holds the measurements of another training: at step {step} its weights were not "
                "those of this model. Numbers of two trainings must not mix: use another `out`, or a new Observer"
            )

    def add(self, name: str, dataset: xr.Dataset) -> None:
        """Keep a step's dataset. Raises OntogenyError where it has another shape than those that are there."""
        if self.store is None:
            if self.parts:
                refuse_other_shape(dataset, next(iter(self.parts.values())))
            self.parts[name] = dataset
            self.failures.pop(name, None)
            return
        assert self.settings is not None
        with self.store.driven(self.settings):
            self.store.commit(name, dataset)
            self.failures.pop(name, None)
            self._record_failures(self.store)

    def fail(self, name: str, reason: str) -> None:
        """Note why a step was not measured; on disk too, where that can be written."""
        self.failures[name] = reason
        if self.store is not None and self.settings is not None:
            with suppress(OSError, OntogenyError), self.store.driven(self.settings):
                self._record_failures(self.store)

    def _record_failures(self, store: ScanStore) -> None:
        """Note all of them: a store that holds no measurement yet forgets its failures each time it is opened."""
        for name, reason in self.failures.items():
            store.record_failure(name, reason)

    @property
    def scan(self) -> Scan:
        """All that is there. Raises OntogenyError where nothing is."""
        if not self._names():
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in self.failures.items())
            raise OntogenyError(
                f"{self._place()} holds no measured step: expected the observer to be called at the steps that it was "
                f"asked for, in the main process{reasons}"
            )
        if self.store is None:
            return Scan(join_checkpoints(list(self.parts.values())), dict(self.failures))
        scan = open_scan(self.store.path)
        return replace(scan, failures={**scan.failures, **self.failures})

    def _names(self) -> set[str]:
        return set(self.parts) if self.store is None else measured_names(self.store.path)

    def _place(self) -> str:
        return "this observer" if self.store is None else str(self.store.path)
