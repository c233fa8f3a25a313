"""The scan: every selected checkpoint of a series, measured into one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ontogeny.dynamics.corpus import RANDOM
from ontogeny.dynamics.keep import Keep
from ontogeny.dynamics.loading.model import available_device, known_dtype
from ontogeny.dynamics.loop import Loop
from ontogeny.dynamics.opening import Scan
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.request import make_measurement
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources import open_series
from ontogeny.dynamics.steps import select_steps
from ontogeny.errors import UsageError


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
    prefetch: int = 1,
    keep: str | int = "all",
    progress: Progress | None = None,
) -> Scan:
    """Measure the checkpoints of `source` and return them as one labelled dataset.

    `source` is a Hub id, a folder of checkpoints, one checkpoint's folder or file, `smollm2`, `pocket`, or a series
    that `open_series` or `open_state_dicts` gave. `out` is the folder to keep the scan in; a scan that is there already
    is gone on with. None keeps nothing on disk. `steps` is `all`, `log` or a list such as `0,1,512,1000:143000:1000`;
    None leaves the choice to the source. `corpus`, `sequences`, `length` (tokens) and `bos` say what is measured on:
    see `make_corpus`. `batch_size` is in sequences, None for about 4096 tokens a pass. `probes` are names of probes,
    None for the default ones. `positions` is the number of key positions to keep, None for all. `impl` is the
    implementation of attention: see `kernels.attention_stats`.

    While a checkpoint is measured, `prefetch` further ones are fetched and read into memory. `keep` tells which
    downloads of this scan stay on disk: `none`, `all`, or a number, of those measured last. Neither changes a number.

    A checkpoint that fails is listed in `Scan.failures` and stops no other. Raises OntogenyError where nothing can be
    measured, and UsageError for a request that makes no sense.
    """
    if not isinstance(prefetch, int) or prefetch < 0:
        raise UsageError(f"expected 0 or more checkpoints to prefetch, got {prefetch!r}")
    kept = Keep.parse(keep)
    progress = progress or Progress()
    series = open_series(source) if isinstance(source, str) else source
    for note in series.notes:
        progress.note(note)
    selection = select_steps(series, series.default_steps if steps is None else steps)
    if selection.absent:
        progress.note(f"not in the series, left out: steps {', '.join(selection.absent)}")
    known_dtype(dtype)
    where = available_device(device)
    measurement = make_measurement(
        series,
        probes=probes,
        corpus=corpus,
        sequences=sequences,
        length=length,
        batch_size=batch_size,
        bos=bos,
        positions=positions,
        impl=impl,
        dtype=dtype,
        device=where.type,
    )
    if corpus is None and measurement.corpus.name == RANDOM:
        progress.note(f"{series.name} has no tokenizer: it is measured on random token ids")
    loop = Loop(series, selection.series.checkpoints, measurement, str(where), prefetch, kept, progress)
    return loop.in_memory() if out is None else loop.into(Path(out))
