"""The scan: every selected checkpoint of a series, measured and stored one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import xarray as xr

from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.corpus import RANDOM, make_corpus
from ontogeny.dynamics.loading.model import available_device, known_dtype
from ontogeny.dynamics.measurement import Measurement
from ontogeny.dynamics.opening import Scan, join_checkpoints, open_scan, read_checkpoints
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.dynamics.sources import open_series
from ontogeny.dynamics.steps import select_steps
from ontogeny.dynamics.store import ScanStore, cache_path, read_failures, refuse_other_shape
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.kernels.attention import Implementation
from ontogeny.probes import DEFINITIONS, ProbeSettings, make_probes

TOKENS_A_PASS = 4096


def scan(
    source: str | Series,
    out: str | Path | None = None,
    *,
    steps: str | None = None,
    probes: Sequence[str] | None = None,
    corpus: str | None = None,
    sequences: int = 100,
    length: int = 64,
    batch_size: int | None = None,
    bos: str = "auto",
    device: str = "auto",
    dtype: str = "float32",
    positions: int | None = 16,
    impl: str = "auto",
    progress: Progress | None = None,
) -> Scan:
    """Measure the checkpoints of `source` and return them as one labelled dataset.

    `source` is a Hub id, a folder of checkpoints, one checkpoint's folder, a `.gguf` file, `smollm2` or `pocket`. `out`
    is the folder to keep the scan in; a scan that is there already is gone on with. None keeps nothing on disk. `steps`
    is `all`, `log` or a list such as `0,1,512,1000:143000:1000`; None leaves the choice to the source. `corpus`,
    `sequences`, `length` (tokens) and `bos` say what is measured on: see `make_corpus`. `batch_size` is in sequences,
    None for about 4096 tokens a pass. `probes` are names of probes, None for all of them. `positions` is the number of
    key positions to keep, None for all. `impl` is the implementation of attention: see `kernels.attention_stats`.

    A checkpoint that fails is listed in `Scan.failures` and stops no other. Raises OntogenyError where nothing can be
    measured, and UsageError for a request that makes no sense.
    """
    progress = progress or Progress()
    series = open_series(source) if isinstance(source, str) else source
    for note in series.notes:
        progress.note(note)
    selection = select_steps(series, series.default_steps if steps is None else steps)
    if selection.absent:
        progress.note(f"not in the series, left out: steps {', '.join(selection.absent)}")
    _refuse_nonsense(series, length, batch_size, positions, impl)
    known_dtype(dtype)
    where = available_device(device)
    kept = None if positions is None else min(positions, length)
    chosen = make_probes(probes, ProbeSettings(length, kept))
    tokens = make_corpus(corpus, series, sequences=sequences, length=length, bos=bos)
    if corpus is None and tokens.name == RANDOM:
        progress.note(f"{series.name} has no tokenizer: it is measured on random token ids")
    settings = ScanSettings(
        source=series.source,
        probes=tuple(chosen),
        corpus_fingerprint=tokens.fingerprint,
        sequences=sequences,
        length=length,
        bos=tokens.bos,
        positions=kept,
        dtype=dtype,
        device=where.type,
        impl=impl,
        definitions=DEFINITIONS,
    )
    batch = batch_size or max(1, TOKENS_A_PASS // length)
    measurement = Measurement(series.name, series.arch, series.quantisation, tokens, settings, chosen, batch)
    work = _Work(selection.series, measurement, str(where), progress)
    return _scan_in_memory(work) if out is None else _scan_into(Path(out), work)


def _refuse_nonsense(series: Series, length: int, batch_size: int | None, positions: int | None, impl: str) -> None:
    if impl not in get_args(Implementation):
        raise UsageError(f"unknown implementation {impl!r}: expected one of {', '.join(get_args(Implementation))}")
    if positions is not None and positions < 1:
        raise UsageError(f"expected at least one position, got {positions}")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"expected at least one sequence in a batch, got {batch_size}")
    longest = series.arch.max_positions
    if series.arch.positional == "learned" and longest is not None and length > longest:
        raise UsageError(
            f"{series.name} has {longest} positions, sequences of {length} tokens were asked for: "
            f"use --length {longest} or less"
        )


@dataclass(frozen=True)
class _Work:
    series: Series
    measurement: Measurement
    device: str
    progress: Progress

    def measured(self, checkpoint: Checkpoint) -> xr.Dataset:
        """One checkpoint's dataset."""
        model = checkpoint.load(self.measurement.settings.dtype, self.device)
        self.progress.loaded()
        return self.measurement.of(
            model,
            checkpoint.name,
            checkpoint.step,
            tokens=checkpoint.tokens,
            revision=checkpoint.revision,
            progress=self.progress,
        )


def _scan_into(path: Path, work: _Work) -> Scan:
    store = ScanStore(path)
    with store.driven(work.measurement.settings):
        store.refuse_changed(work.series.checkpoints)
        for checkpoint in _begin(work, store.measured()):
            failure = _attempt(work, checkpoint, partial(store.commit, checkpoint.name))
            if failure is not None:
                store.record_failure(checkpoint.name, failure)
        if not store.measured():
            raise _nothing_measured(read_failures(path))
        if not (cache_path(path) / "zarr.json").exists():
            store.consolidate(read_checkpoints(path))
    scan = open_scan(path)
    asked_for = {one.name for one in work.series.checkpoints}
    return replace(scan, failures={name: why for name, why in scan.failures.items() if name in asked_for})


def _scan_in_memory(work: _Work) -> Scan:
    parts: list[xr.Dataset] = []
    failures: dict[str, str] = {}

    def keep(dataset: xr.Dataset) -> None:
        if parts:
            refuse_other_shape(dataset, parts[0])
        parts.append(dataset)

    for checkpoint in _begin(work, set()):
        failure = _attempt(work, checkpoint, keep)
        if failure is not None:
            failures[checkpoint.name] = failure
    if not parts:
        raise _nothing_measured(failures)
    return Scan(join_checkpoints(parts), failures)


def _begin(work: _Work, there: set[str]) -> list[Checkpoint]:
    """The checkpoints that are still to be measured; the progress is told of them."""
    todo = [one for one in work.series.checkpoints if one.name not in there]
    already = len(work.series.checkpoints) - len(todo)
    work.progress.started(
        [one.name for one in todo], already, work.series.arch.layers, work.measurement.corpus.ids.size
    )
    return todo


def _attempt(work: _Work, checkpoint: Checkpoint, keep: Callable[[xr.Dataset], None]) -> str | None:
    """Measure one checkpoint and `keep` its dataset; the reason where that failed, which stops no other."""
    work.progress.checkpoint(checkpoint.name)
    try:
        keep(work.measured(checkpoint))
        reason = None
    except Exception as error:
        reason = str(error) if isinstance(error, OntogenyError) else f"{type(error).__name__}: {error}"
    work.progress.finished(checkpoint.name, reason)
    return reason


def _nothing_measured(failures: dict[str, str]) -> OntogenyError:
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
    return OntogenyError(f"not one of {len(failures)} checkpoints could be measured:\n{reasons}")
