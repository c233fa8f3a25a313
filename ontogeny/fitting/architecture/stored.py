"""The trained predictor of each metric as a file of plain numbers, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting.architecture.registry import SHIPPABLE

if TYPE_CHECKING:
    from ontogeny.fitting.architecture.measured import CurvePredictor

BUNDLED = "predictor.json"
FORMAT = 1


@dataclass(frozen=True)
class Trained:
    """A predictor of one metric and what has to be known of it: `state` is the predictor's `to_dict`.

    `error` and `null_error` are leave-one-model-out errors (`Score.overall`) in units of the measured range, and
    `of_model` those of each model; `half_width` is that of the band of `level`, in units of the
    prediction's `magnitude`; `coverage` is what bands made without a model cover of it, at `coverage_level`, by model.
    `ranges` are the lowest and highest of each count and ratio in training, `facts` the other facts that occurred.
    `models` counts the curves of each.
    """

    metric: str
    predictor: str
    state: Mapping[str, Any]
    floor: float
    error: float
    null_error: float
    of_model: Mapping[str, float]
    level: float
    half_width: float
    coverage_level: float
    coverage: Mapping[str, float]
    models: Mapping[str, int]
    last_step: float
    batch_tokens: int | None
    ranges: Mapping[str, tuple[float, float]]
    facts: Mapping[str, tuple[str | bool | None, ...]]
    data: str

    def load(self) -> CurvePredictor:
        """The predictor itself."""
        return SHIPPABLE[self.predictor].from_dict(dict(self.state))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)


def dumped(trained: Mapping[str, Trained]) -> str:
    """The text of a file of predictors by metric: numbers to the last bit."""
    held = {metric: one.to_dict() for metric, one in trained.items()}
    return json.dumps({"format": FORMAT, "metrics": held}, separators=(",", ":")) + "\n"


def loaded(text: str) -> dict[str, Trained]:
    """The predictors of a file's `text`. Raises OntogenyError where it is of another format."""
    content = json.loads(text)
    if content.get("format") != FORMAT:
        raise OntogenyError(f"expected a predictor file of format {FORMAT}, got {content.get('format')!r}: train anew")
    return {metric: Trained(**one) for metric, one in content["metrics"].items()}


def bundled(metric: str) -> Trained:
    """The predictor that ships for `metric`. Raises UsageError where there is none."""
    known = _bundled()
    if metric not in known:
        raise UsageError(
            f"expected a metric that a predictor was trained on, one of {', '.join(known)}; got {metric!r}"
        )
    return known[metric]


@lru_cache(maxsize=1)
def _bundled() -> dict[str, Trained]:
    return loaded(files("ontogeny").joinpath("data", BUNDLED).read_text(encoding="utf-8"))
