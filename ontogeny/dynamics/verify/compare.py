"""Published and measured side by side: their difference, and in what the two protocols differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isinf
from typing import Any

from ontogeny.dynamics.verify.published import Figure, Value

# Ours, not the papers': how far a number may be off before it is marked. Text, draws and precision differ.
TOLERANCES = {"sinks": 5.0, "massive": 0.25, "ratio": 0.25, "ablation": 0.25}

CORPORA = {
    "builtin": "text: the documentation topics that Python carries, not {text}",
    "random": "random tokens: seeded draws of ours, not the paper's; no BOS before them, and whether the paper had one "
    "is not known",
    "repeated": "one token repeated: a seeded draw of ours for each sequence, not the paper's; no BOS before them",
}


@dataclass(frozen=True)
class Used:
    """What a figure was measured with."""

    corpus: str
    corpus_fingerprint: str
    sequences: int
    length: int
    bos: str
    dtype: str
    device: str
    revision: str
    quantisation: str
    batch_size: int


@dataclass(frozen=True)
class Row:
    """A published figure, and ours with what it was measured with; or the reason why it was not measured."""

    figure: Figure
    ours: Value | None = None
    used: Used | None = None
    reason: str | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus published, or ours over published for a ratio; None where there is no such number."""
        ours, published = self.ours, self.figure.value
        if not isinstance(ours, (int, float)) or not isinstance(published, (int, float)):
            return None
        if self.figure.quantity.by == "same" or isinf(ours) or isinf(published):
            return None
        return ours / published if self.figure.quantity.by == "ratio" else ours - published

    @property
    def beyond(self) -> bool | None:
        """Whether the difference is beyond the table's tolerance; None where nothing was measured.

        Blocks, dimensions and what is infinite have none: there any difference is.
        """
        if self.ours is None:
            return None
        by, difference = self.figure.quantity.by, self.difference
        if difference is None or by == "count":
            return self.ours != self.figure.value
        tolerance = TOLERANCES[self.figure.table]
        if by == "points":
            return abs(difference) > tolerance
        return not 1 / (1 + tolerance) <= difference <= 1 + tolerance

    def notes(self) -> tuple[str, ...]:
        """Where it is published, and how the protocol of ours differs from that, or why there is no number of ours."""
        differences = _differences(self.figure, self.used) if self.used else [f"not measured: {self.reason}"]
        return (_published(self.figure), *differences)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: an infinite number is the string `infinite`."""
        figure = self.figure
        source = figure.setting.source
        return {
            "table": figure.table,
            "quantity": figure.quantity.label,
            "model": figure.model.name,
            "hub_id": figure.model.hub_id,
            "published": plain(figure.value),
            "source": f"arXiv {source.arxiv}",
            "published_protocol": {
                "text": source.text,
                "sequences": source.sequences,
                "length": _published_length(figure),
                "dtype": source.dtype,
            },
            "ours": plain(self.ours),
            "difference": self.difference,
            "difference_is": {"ratio": "ours / published", "same": None}.get(figure.quantity.by, "ours - published"),
            "tolerance": TOLERANCES[figure.table] if figure.quantity.by in ("points", "ratio") else 0,
            "beyond_tolerance": self.beyond,
            "measured_with": None if self.used is None else asdict(self.used),
            "not_measured": self.reason,
            "notes": list(self.notes()),
        }


def plain(value: Value | None) -> object:
    """A value as JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    return "infinite" if value is not None and isinf(value) else value


def _published(figure: Figure) -> str:
    source, length = figure.setting.source, _published_length(figure)
    known = [
        f"{source.sequences} sequences" if source.sequences else "",
        f"of {length} tokens" if length else "",
        f"in {source.dtype}" if source.dtype else "",
    ]
    return f"published: arXiv {source.arxiv}, {' '.join(filter(None, known)) or 'its protocol is not known here'}"


def _published_length(figure: Figure) -> int | None:
    return figure.setting.published_length or figure.setting.source.length


def _differences(figure: Figure, used: Used) -> Iterator[str]:
    source = figure.setting.source
    yield CORPORA[used.corpus].format(text=source.text)
    lengths = {"sequences": (source.sequences, used.sequences), "tokens each": (_published_length(figure), used.length)}
    for what, (published, ours) in lengths.items():
        if published is None:
            yield f"{ours} {what}: how many the paper has is not known"
        elif published != ours:
            yield f"{ours} {what}, published over {published}"
    if source.dtype is None:
        yield f"computed in {used.dtype}: the paper's precision is not known"
    elif source.dtype != used.dtype:
        yield f"computed in {used.dtype}, published in {source.dtype}"
    if used.quantisation != "none":
        yield f"weights quantised: {used.quantisation}"
    if used.corpus == "builtin" and used.bos == "never":
        yield "no special token before the text, as the paper's released numbers say"
    elif used.corpus == "builtin" and source.dtype is None:
        yield "the tokenizer's default special tokens: whether the paper had them is not known"
    yield f"weights: what the Hub serves now as revision {used.revision}; which one the paper had is not known"
    yield from source.remarks
