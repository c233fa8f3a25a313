"""The checkpoints of a series, measured and kept one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import xarray as xr
from transformers import PreTrainedModel

from ontogeny.dynamics.audit import gather, gather_into, with_verdicts
from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.keep import Keep
from ontogeny.dynamics.measurement import Measurement
from ontogeny.dynamics.opening import Scan, join_checkpoints, open_scan, read_checkpoints
from ontogeny.dynamics.prefetch import ahead
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.request import failure_reason
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.store import ScanStore, StoreError, cache_path, read_failures, refuse_other_shape
from ontogeny.errors import OntogenyError

MakeModel = Callable[[str, str], PreTrainedModel]

_SHOWN = 3  # reasons, where nothing could be measured


@dataclass
class Loop:
    """The series, its selected checkpoints, what each is measured with, and how to go about it.

    `device` is where models are measured, `prefetch` how many are fetched and read ahead, `keep` which downloads stay.
    """

    series: Series
    selected: tuple[Checkpoint, ...]
    measurement: Measurement
    device: str
    prefetch: int
    keep: Keep
    progress: Progress
    _batch_size: int | None = field(default=None, init=False)

    def into(self, path: Path) -> Scan:
        """Measure into the folder `path`, what is there already left out."""
        store = ScanStore(path)
        with store.driven(self.measurement.settings):
            store.refuse_changed(self.selected)
            with store.writing():
                gather_into(path, self.series, self._names())
            self._run(store.measured(), store.commit, store.record_failure)
            if not store.measured():
                raise _nothing_measured(read_failures(path))
            self._consolidate(store)
        scan = open_scan(path)
        asked_for = self._names()
        return replace(scan, failures={name: why for name, why in scan.failures.items() if name in asked_for})

    def in_memory(self) -> Scan:
        """Measure all, and keep the datasets in memory."""
        parts: list[xr.Dataset] = []
        failures: dict[str, str] = {}

        def keep(_name: str, dataset: xr.Dataset) -> None:
            if parts:
                refuse_other_shape(dataset, parts[0])
            parts.append(dataset)

        evidence = gather(self.series, self._names())
        self._run(set(), keep, failures.__setitem__)
        if not parts:
            raise _nothing_measured(failures)
        return Scan(with_verdicts(join_checkpoints(parts), evidence), failures)

    def _names(self) -> set[str]:
        return {one.name for one in self.selected}

    def _run(self, there: set[str], keep: Callable[[str, xr.Dataset], None], fail: Callable[[str, str], None]) -> None:
        todo = [one for one in self.selected if one.name not in there]
        already = len(self.selected) - len(todo)
        tokens = self.measurement.corpus.ids.size
        self.progress.started([one.name for one in todo], already, self.series.arch.layers, tokens)
        done = 0
        try:
            with ahead(todo, Checkpoint.read_ahead, self.prefetch) as checkpoints:
                for checkpoint, read in checkpoints:
                    failure = self._attempt(checkpoint, read, partial(keep, checkpoint.name))
                    if failure is not None:
                        fail(checkpoint.name, failure)
                    self._done(checkpoint)
                    done += 1
        finally:
            for checkpoint in todo[done : done + 1 + self.prefetch]:  # begun or fetched ahead, and given up
                self._done(checkpoint)

    def _attempt(
        self, checkpoint: Checkpoint, read: Callable[[], MakeModel], keep: Callable[[xr.Dataset], None]
    ) -> str | None:
        """Measure one checkpoint and `keep` its dataset; the reason where that failed, which stops no other.

        Raises StoreError where nothing can be kept any more.
        """
        self.progress.checkpoint(checkpoint.name)
        try:
            model = read()(self.measurement.settings.dtype, self.device)
            self.progress.loaded()
            keep(self._measured(model, checkpoint))
            reason = None
        except StoreError:
            raise
        except Exception as error:
            reason = failure_reason(error)
        self.progress.finished(checkpoint.name, reason)
        return reason

    def _measured(self, model: PreTrainedModel, checkpoint: Checkpoint) -> xr.Dataset:
        dataset = self.measurement.of(
            model,
            checkpoint.name,
            checkpoint.step,
            tokens=checkpoint.tokens,
            revision=checkpoint.revision,
            batch_size=self._batch_size,
            progress=self.progress,
        )
        self._batch_size = int(dataset["batch_size"][0])  # memory that did not suffice once will not the next time
        return dataset

    def _done(self, checkpoint: Checkpoint) -> None:
        try:
            self.keep.done(checkpoint)
        except OntogenyError as error:
            self.progress.note(str(error))

    def _consolidate(self, store: ScanStore) -> None:
        """Write the cache; a scan is whole without it."""
        if (cache_path(store.path) / "zarr.json").exists():
            return
        try:
            store.consolidate(read_checkpoints(store.path))
        except StoreError as error:
            self.progress.note(f"{error}; all measurements are kept, and opening them takes longer")


def _nothing_measured(failures: dict[str, str]) -> OntogenyError:
    lines = [f"  {name}: {reason}" for name, reason in failures.items()]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} more"]
    return OntogenyError("\n".join([f"not one of {len(failures)} checkpoints could be measured:", *lines]))
