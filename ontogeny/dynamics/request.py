"""From what a user asks for to the measurement that every checkpoint is given: what a scan and an observer share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ontogeny.dynamics.corpus import make_corpus
from ontogeny.dynamics.measurement import Measurement
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.kernels.attention import Implementation
from ontogeny.probes import DEFINITIONS, ProbeSettings, make_probes
from ontogeny.probes.batches import TOKENS_A_PASS


def make_measurement(
    series: Series,
    *,
    probes: Sequence[str] | None,
    corpus: str | None,
    sequences: int,
    length: int,
    batch_size: int | None,
    bos: str,
    positions: int | None,
    impl: str,
    dtype: str,
    device: str,
) -> Measurement:
    """What the checkpoints of `series` are measured with; the arguments are those of `scan`, `device` a device's type.

    Raises UsageError for a request that makes no sense, OntogenyError where the corpus cannot be had.
    """
    _refuse_nonsense(series, length, batch_size, positions, impl)
    kept = None if positions is None else min(positions, length)
    chosen = make_probes(probes, ProbeSettings(length, kept))
    tokens = make_corpus(corpus, series, sequences=sequences, length=length, bos=bos)
    settings = ScanSettings(
        source=series.source,
        probes=chosen.names,
        corpus_fingerprint=tokens.fingerprint,
        sequences=sequences,
        length=length,
        bos=tokens.bos,
        positions=kept,
        dtype=dtype,
        device=device,
        impl=impl,
        definitions=DEFINITIONS,
    )
    batch = batch_size or max(1, TOKENS_A_PASS // length)
    return Measurement(series.name, series.arch, series.quantisation, tokens, settings, chosen, batch)


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


def failure_reason(error: Exception) -> str:
    """Why a checkpoint was not measured, as a scan's failures state it."""
    return str(error) if isinstance(error, OntogenyError) else f"{type(error).__name__}: {error}"
