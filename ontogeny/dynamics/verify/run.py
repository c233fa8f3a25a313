"""Measures the models of published figures by these figures' protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import xarray as xr
from transformers import PreTrainedModel

from ontogeny.dynamics.loading.model import available_device, known_dtype
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.measurement import Measurement
from ontogeny.dynamics.progress import Progress
from ontogeny.dynamics.request import failure_reason, make_measurement
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.hub import open_hub
from ontogeny.dynamics.verify.compare import Row, Used
from ontogeny.dynamics.verify.published import Figure, Model, Setting, models
from ontogeny.dynamics.verify.readers import READERS
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes.registry import EXPERIMENTS, PROBES


class _Told(Progress):
    """What a measurement notes, such as a batch that memory did not suffice for."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def note(self, text: str) -> None:
        self._say(text)


def verify(
    figures: Sequence[Figure],
    *,
    sequences: int | None = None,
    length: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Measure `figures`, each model loaded once, and return a row for each, in their order.

    `sequences` and `length` (tokens) are those of the figures' settings unless given, and never longer than the model's
    positions. `say` is told what is being done. A figure that cannot be measured is a row with the reason, and stops no
    other. Raises UsageError for a request that makes no sense.
    """
    if (sequences is not None and sequences < 1) or (length is not None and length < 2):
        raise UsageError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} of {length}")
    known_dtype(dtype)
    where = available_device(device)
    rows: dict[Figure, Row] = {}
    for model in models(figures):
        mine = [figure for figure in figures if figure.model == model]
        try:
            rows |= _measured(model, mine, sequences, length, where, dtype, say)
        except Exception as error:
            rows |= {figure: Row(figure, reason=failure_reason(error)) for figure in mine}
    return [rows[figure] for figure in figures]


def _measured(
    model: Model,
    figures: list[Figure],
    sequences: int | None,
    length: int | None,
    where: torch.device,
    dtype: str,
    say: Callable[[str], None],
) -> dict[Figure, Row]:
    """The rows of one model, whose weights are fetched only where something can be measured of them."""
    series = open_hub(model.hub_id, model.revision)
    rows: dict[Figure, Row] = {}
    ready: dict[Setting, Measurement] = {}
    for setting in dict.fromkeys(figure.setting for figure in figures):
        try:
            ready[setting] = _prepared(setting, series, sequences, length, where, dtype)
        except Exception as error:
            rows |= {one: Row(one, reason=failure_reason(error)) for one in figures if one.setting == setting}
    if not ready:
        return rows
    say(f"loading {model.hub_id}, about {4 * model.size:.2g} GB in float32")
    loaded = series.checkpoints[-1].load(dtype, str(where))
    for setting, measurement in ready.items():
        corpus = measurement.corpus
        shape = " x ".join(map(str, corpus.ids.shape))
        say(f"measuring {model.hub_id}: {setting.probe} on {shape} tokens, {corpus.name}")
        rows |= _of_setting(setting, measurement, loaded, series, figures, say)
    return rows


def _prepared(
    setting: Setting, series: Series, sequences: int | None, length: int | None, where: torch.device, dtype: str
) -> Measurement:
    if setting.probe not in {**PROBES, **EXPERIMENTS}:
        raise OntogenyError(f"this version of Ontogeny has no measurement of the name {setting.probe}")
    wanted = length or setting.length
    return make_measurement(
        series,
        probes=[setting.probe],
        corpus=setting.corpus,
        sequences=sequences or setting.sequences,
        length=min(wanted, series.arch.max_positions or wanted),
        batch_size=None,
        bos=setting.bos,
        positions=1,
        impl="auto",
        dtype=dtype,
        device=where.type,
    )


def _of_setting(
    setting: Setting,
    measurement: Measurement,
    loaded: PreTrainedModel,
    series: Series,
    figures: list[Figure],
    say: Callable[[str], None],
) -> dict[Figure, Row]:
    mine = [figure for figure in figures if figure.setting == setting]
    corpus, settings = measurement.corpus, measurement.settings
    try:
        found = measure_checkpoint(
            loaded, corpus, measurement.probes, measurement.batch_size, _Told(say), settings.impl
        )
        if str(found.attrs.get(setting.probe, "")).startswith("unavailable"):
            raise OntogenyError(found.attrs[setting.probe])
    except Exception as error:
        return {figure: Row(figure, reason=failure_reason(error)) for figure in mine}
    used = Used(
        corpus=corpus.name,
        corpus_fingerprint=corpus.fingerprint,
        sequences=settings.sequences,
        length=settings.length,
        bos=corpus.bos,
        dtype=settings.dtype,
        device=settings.device,
        revision=series.checkpoints[-1].revision,
        quantisation=series.quantisation,
        batch_size=int(found["batch_size"]),
    )
    return {figure: _row(figure, found, used) for figure in mine}


def _row(figure: Figure, found: xr.Dataset, used: Used) -> Row:
    try:
        return Row(figure, READERS[figure.quantity.key](found), used)
    except OntogenyError as error:
        return Row(figure, reason=str(error))
