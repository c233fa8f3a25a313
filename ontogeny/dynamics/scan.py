"""The scan: every selected checkpoint of a series, measured and stored one after the other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
import xarray as xr

from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.corpus import Corpus, make_corpus
from ontogeny.dynamics.loading.model import available_device, known_dtype
from ontogeny.dynamics.measure import measure
from ontogeny.dynamics.opening import Scan, open_scan, read_checkpoints
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.dynamics.sources import open_series
from ontogeny.dynamics.steps import select_steps
from ontogeny.dynamics.store import ScanStore, read_failures
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes import PROBES, Probe, ProbeSettings, make_probes
from ontogeny.version import __version__

TOKENS_A_PASS = 4096
UNAUDITED = "unaudited"


def scan(
    source: str | Series,
    out: str | Path | None = None,
    *,
    steps: str | None = None,
    probes: Sequence[str] = tuple(PROBES),
    corpus: str | None = None,
    sequences: int = 100,
    length: int = 64,
    batch_size: int | None = None,
    bos: str = "auto",
    device: str = "auto",
    dtype: str = "float32",
    positions: int | None = 16,
    progress: Progress | None = None,
) -> Scan:
    """Measure the checkpoints of `source` and return them as one labelled dataset.

    `source` is a Hub id, a folder of checkpoints, one checkpoint's folder, a `.gguf` file, `smollm2` or `pocket`. `out`
    is the folder to keep the scan in; a scan that is there already is gone on with. None keeps nothing on disk. `steps`
    is `all`, `log` or a list such as `0,1,512,1000:143000:1000`; None leaves the choice to the source. `corpus`,
    `sequences`, `length` (tokens) and `bos` say what is measured on: see `make_corpus`. `batch_size` is in sequences,
    None for about 4096 tokens a pass. `positions` is the number of key positions to keep, None for all.

    A checkpoint that fails is listed in `Scan.failures` and stops no other. Raises OntogenyError where nothing can be
    measured, and UsageError for a request that makes no sense.
    """
    progress = progress or Progress()
    series = open_series(source) if isinstance(source, str) else source
    selection = select_steps(series, steps or series.default_steps)
    if selection.absent:
        progress.note(f"not in the series, left out: steps {', '.join(selection.absent)}")
    if positions is not None and positions < 1:
        raise UsageError(f"expected at least one position, got {positions}")
    tokens = make_corpus(corpus, series, sequences=sequences, length=length, bos=bos)
    known_dtype(dtype)
    where = available_device(_best_device() if device == "auto" else device)
    settings = ScanSettings(
        source=series.source,
        probes=tuple(probes),
        corpus=tokens.name,
        corpus_fingerprint=tokens.fingerprint,
        sequences=sequences,
        length=length,
        bos=tokens.bos,
        positions=positions,
        dtype=dtype,
        device=where.type,
    )
    work = _Work(
        series=selection.series,
        corpus=tokens,
        settings=settings,
        probes=make_probes(probes, ProbeSettings(length, positions)),
        device=str(where),
        batch_size=batch_size or max(1, TOKENS_A_PASS // length),
        progress=progress,
    )
    if out is not None:
        return _scan_into(Path(out), work)
    with tempfile.TemporaryDirectory(prefix="ontogeny-") as folder:
        kept = _scan_into(Path(folder), work)
        return Scan(kept.dataset.load(), kept.failures)


@dataclass(frozen=True)
class _Work:
    series: Series
    corpus: Corpus
    settings: ScanSettings
    probes: dict[str, Probe]
    device: str
    batch_size: int
    progress: Progress

    def measured(self, checkpoint: Checkpoint) -> xr.Dataset:
        """One checkpoint's dataset, with the dimension `checkpoint` and all attributes."""
        model = checkpoint.load(self.settings.dtype, self.device)
        dataset = measure(model, self.corpus, self.probes, self.batch_size, self.progress)
        labels = {
            "step": np.array([checkpoint.step], dtype=np.int64),
            "tokens": np.array([np.nan if checkpoint.tokens is None else checkpoint.tokens]),
            "revision": np.array([checkpoint.revision], dtype=object),
            "verdict": np.array([UNAUDITED], dtype=object),
        }
        named = dataset.expand_dims(checkpoint=np.array([checkpoint.name], dtype=object))
        coordinates = {name: ("checkpoint", values) for name, values in labels.items()}
        return named.assign_coords(coordinates).assign_attrs(self.attributes())

    def attributes(self) -> dict[str, object]:
        """What every dataset says of how it was made."""
        settings = self.settings.to_dict()
        return {
            **settings,
            "positions": "all" if self.settings.positions is None else self.settings.positions,
            "corpus_skipped": self.corpus.skipped,
            "series": self.series.name,
            "arch": json.dumps(self.series.arch.to_dict()),
            "quantisation": self.series.quantisation,
            "ontogeny_version": __version__,
            "torch_version": torch.__version__,
            "transformers_version": transformers.__version__,
        }


def _scan_into(path: Path, work: _Work) -> Scan:
    store = ScanStore(path)
    with store.driven(work.settings):
        there = store.measured()
        todo = [one for one in work.series.checkpoints if one.name not in there]
        already = len(work.series.checkpoints) - len(todo)
        blocks = work.series.arch.layers
        work.progress.started([one.name for one in todo], already, blocks, work.corpus.ids.size)
        for checkpoint in todo:
            work.progress.checkpoint(checkpoint.name)
            work.progress.finished(checkpoint.name, _measure_into(store, work, checkpoint))
        if not store.measured():
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in read_failures(path).items())
            raise OntogenyError(f"not one of {len(todo)} checkpoints could be measured:\n{reasons}")
        if todo:
            store.consolidate(read_checkpoints(path))
    return open_scan(path)


def _measure_into(store: ScanStore, work: _Work, checkpoint: Checkpoint) -> str | None:
    """Measure and store one checkpoint; the reason where that failed, which is kept and stops no other."""
    try:
        store.commit(checkpoint.name, work.measured(checkpoint))
    except Exception as error:
        reason = str(error) if isinstance(error, OntogenyError) else f"{type(error).__name__}: {error}"
        store.record_failure(checkpoint.name, reason)
        return reason
    return None


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
