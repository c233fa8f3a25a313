"""The report's tables as HTML; every text that comes from data is escaped here."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ontogeny.dataset import SOUND
from ontogeny.errors import OntogenyError
from ontogeny.plots.axes import checkpoint_labels
from ontogeny.plots.measurements import EPSILON, POSITION, massive_ratios, sink_rates

_FIT_COLUMNS = {  # variable: title, number format (none: text)
    "verdict": ("verdict", ""),
    "regime": ("regime", ""),
    "r2": ("R²", ".4f"),
    "final_value": ("last value", ",.4g"),
    "peak_value": ("peak", ",.4g"),
    "peak_step": ("peak step", ",.0f"),
    "half_rise_step": ("half-rise step", ",.0f"),
    "A1": ("A₁", ".3g"),
    "A2": ("A₂", ".3g"),
    "K": ("K", ".3g"),
    "beta": ("β (1/step)", ".2e"),
    "tau0": ("τ₀ (steps)", ".3g"),
}
_NUMBER = ' class="number"'
_STEPS = ("peak_step", "half_rise_step")  # 0 is where the data leave the lower end of these open
_OPEN = "open"
_ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of cells, not escaped; `numeric` ones are right-aligned."""

    name: str
    cells: Sequence[str]
    numeric: bool = False


def html_table(columns: Sequence[Column], caption: str) -> str:
    """A table in a box that scrolls sideways on a narrow screen; all texts are escaped here."""
    head = "".join(f'<th scope="col"{_NUMBER * c.numeric}>{html.escape(c.name)}</th>' for c in columns)
    cells = [[f"<td{_NUMBER * c.numeric}>{html.escape(cell)}</td>" for cell in c.cells] for c in columns]
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    return (
        f'<p class="caption">{html.escape(caption)}</p>\n<div class="table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def checkpoint_table(dataset: xr.Dataset) -> str:
    """One row a checkpoint: step, revision, tokens seen, verdict, and its highest sink rate and massive ratio."""
    columns = [Column("checkpoint", checkpoint_labels(dataset))]
    with suppress(OntogenyError):  # the report says, in the figures' place, why there are none
        rates = sink_rates(dataset).values
        columns.append(Column("highest sink rate", _format(rates.max(axis=(1, 2)), ".3f"), numeric=True))
        columns.append(Column("layer.head", [_argmax(of_one) for of_one in rates]))
    with suppress(OntogenyError):
        ratios = massive_ratios(dataset).values
        columns.append(Column("highest ratio", _format(ratios.max(axis=1), ",.4g"), numeric=True))
        columns.append(Column("depth", [_argmax(of_one) for of_one in ratios]))
    for name in ("revision", "verdict"):
        texts = [str(value) for value in np.atleast_1d(dataset[name].values)] if name in dataset.coords else []
        if any(texts):
            columns.append(Column(name, texts))
    if "tokens" in dataset.coords and np.isfinite(dataset["tokens"].values).any():
        columns.append(Column("tokens seen", _format(np.atleast_1d(dataset["tokens"].values), ",.0f"), numeric=True))
    return html_table(columns, f"Sink rate at position {POSITION}, ε = {EPSILON:g}; ratio max|h| / median|h|.")


def fit_table(fits: xr.Dataset) -> str:
    """One row a fit: its verdict, regime, R², peak, last value and parameters; a sentence where all failed alike."""
    verdict = fits["verdict"]
    metric, definition = fits.attrs.get("metric", "the metric"), fits.attrs.get("definition")
    fitted = f"{metric} ({definition})" if definition else str(metric)
    verdicts = {str(value) for value in verdict.values.ravel()}
    if len(verdicts) == 1 and not np.isfinite(fits["K"].values).any():
        why = f"No curve of {fitted} was fitted: for all {verdict.size} the verdict is “{verdicts.pop()}”."
        return f"<p>{html.escape(why)}</p>"
    index = np.indices(verdict.shape).reshape(verdict.ndim, -1)
    columns = [
        Column(str(dim), [str(fits[dim].values[i]) for i in places])
        for dim, places in zip(verdict.dims, index, strict=True)
    ]
    for name, (title, form) in _FIT_COLUMNS.items():
        if name in fits:
            values = fits[name].transpose(*verdict.dims).values.ravel()
            cells = _format(values.astype(float), form) if form else [str(value) for value in values]
            cells = _with_intervals(fits, name, cells, form)
            columns.append(Column(title, cells, numeric=bool(form)))
    caption = f"f(t) = exp(-βt) (A₁ log(t + τ₀) + A₂) + K, fitted to {fitted}."
    if any(f"{name}_low" in fits for name in _FIT_COLUMNS):
        level = float(fits.attrs["level"])
        caption += f" In brackets: intervals of {level:.3g} confidence by profile likelihood; open: no end in the data."
    if "left_out" in fits.attrs:
        caption += f" Left out, as flagged by the audit: {fits.attrs['left_out']}."
    return html_table(columns, caption)


def kind_table(dataset: xr.Dataset) -> str:
    """How many heads have each kind of waiver, as `waiver_kind` has it: one row for each checkpoint that changes it."""
    kinds = dataset["waiver_kind"].transpose("checkpoint", ...)
    values = kinds.values.reshape(kinds.sizes["checkpoint"], -1)
    meanings, flags = kinds.attrs["flag_meanings"].split(), kinds.attrs["flag_values"]
    counts = np.stack([(values == flag).sum(axis=1) for flag in flags], axis=1)
    shown = [i for i in range(len(counts)) if i == 0 or (counts[i] != counts[i - 1]).any()]
    labels = checkpoint_labels(dataset)
    columns = [Column("checkpoint", [labels[i] for i in shown])]
    for meaning, of_kind in zip(meanings, counts[shown].T, strict=True):
        columns.append(Column(meaning.replace("_", " "), [str(count) for count in of_kind], numeric=True))
    as_before = (
        "" if len(shown) == len(counts) else " Checkpoints that are not listed have the numbers of the one before."
    )
    return html_table(columns, f"Number of heads whose sink at position {POSITION} is of each kind.{as_before}")


def audit_summary(dataset: xr.Dataset) -> str:
    """The flagged checkpoints, each with its verdict and the reason, and what the audit found on the series."""
    rows = flagged_checkpoints(dataset)
    names, verdicts, reasons = zip(*rows, strict=True) if rows else ((), (), ())
    columns = [Column("checkpoint", names), Column("verdict", verdicts), Column("why", reasons)]
    table = (
        html_table(columns, "Flagged checkpoints are drawn, and left out of fits and of what emerged.") if rows else ""
    )
    findings = str(dataset.attrs.get("audit", ""))
    return "\n".join(filter(None, [table, f"<p>{html.escape(findings)}</p>" if findings else ""]))


def flagged_checkpoints(dataset: xr.Dataset) -> list[tuple[str, str, str]]:
    """Label, verdict and reason of each checkpoint that the audit flags."""
    if "verdict" not in dataset.coords:
        return []
    verdicts = [str(value) for value in np.atleast_1d(dataset["verdict"].values)]
    reasons = [""] * len(verdicts)
    if "verdict_reason" in dataset.coords:
        reasons = [str(value) for value in np.atleast_1d(dataset["verdict_reason"].values)]
    rows = zip(checkpoint_labels(dataset), verdicts, reasons, strict=True)
    return [row for row in rows if row[1] not in SOUND]


def settings_table(dataset: xr.Dataset) -> str:
    """The dataset's attributes, those of the architecture one by one."""
    rows: list[tuple[str, str]] = []
    for name, value in dataset.attrs.items():
        arch = _arch(value) if name == "arch" else None
        if arch is None:
            rows.append((str(name), str(value)))
        else:
            rows.extend((f"arch: {key}", str(part)) for key, part in arch.items() if part is not None)
    columns = [Column("setting", [name for name, _ in rows]), Column("value", [value for _, value in rows])]
    return html_table(columns, "As the dataset's attributes state them.")


def failure_list(failures: Sequence[tuple[str, str]]) -> str:
    """The checkpoints that failed, each with its reason."""
    items = (f"<li><b>{html.escape(name)}</b>: {html.escape(reason)}</li>" for name, reason in failures)
    return f"<ul>{''.join(items)}</ul>"


def _arch(value: object) -> dict[str, object] | None:
    try:
        arch = json.loads(str(value))
    except ValueError:
        return None
    return arch if isinstance(arch, dict) else None


def _format(values: np.ndarray, form: str) -> list[str]:
    return [format(float(value), form) if np.isfinite(value) else _ABSENT for value in values]


def _with_intervals(fits: xr.Dataset, name: str, cells: list[str], form: str) -> list[str]:
    """The cells of an estimate, each with its interval behind it where the fits have one."""
    if f"{name}_low" not in fits:
        return cells
    low, high = (fits[f"{name}_{side}"].transpose(*fits["verdict"].dims).values.ravel() for side in ("low", "high"))
    texts = []
    for cell, *ends in zip(cells, low, high, strict=True):
        said = [_OPEN if np.isinf(end) or (name in _STEPS and end == 0) else format(float(end), form) for end in ends]
        texts.append(cell if np.isnan(ends).any() else f"{cell} [{said[0]}, {said[1]}]")
    return texts


def _argmax(values: np.ndarray) -> str:
    """The place of the highest value, its indices joined by dots; none where all are 0 or unknown."""
    if not np.nan_to_num(values).any():
        return _ABSENT
    return ".".join(str(i) for i in np.unravel_index(np.nanargmax(values), values.shape))
