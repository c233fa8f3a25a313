"""From measured curves to a predictor that may be shipped: scores of all, the choice, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from ontogeny.errors import OntogenyError
from ontogeny.fitting.architecture.folds import Split, leave_one_model_out, random_split
from ontogeny.fitting.architecture.intervals import LEVEL, coverage, half_width, highest_level
from ontogeny.fitting.architecture.measured import FLOORS
from ontogeny.fitting.architecture.outside import facts_of, ranges_of
from ontogeny.fitting.architecture.registry import NULL, PREDICTORS, SHIPPABLE
from ontogeny.fitting.architecture.stored import Trained
from ontogeny.fitting.architecture.validation import Score, score, winners

if TYPE_CHECKING:
    from ontogeny.fitting.architecture.measured import ModelCurves
    from ontogeny.fitting.architecture.registry import Shippable

SPLITS: dict[str, Split] = {"leave one model out": leave_one_model_out, "random": random_split}
LEAST_MODELS = 3


@dataclass(frozen=True, eq=False)
class Table:
    """Scores of predictors on one metric's curves under one split, and why the others have none."""

    split: str
    scores: Mapping[str, Score]
    refused: Mapping[str, str] = field(default_factory=dict)


def tabulated(models: Sequence[ModelCurves], metric: str, split: str, names: Iterable[str] = PREDICTORS) -> Table:
    """Score each of the predictors `names` under the split called `split`, one of SPLITS."""
    scores, refused = {}, {}
    for name in names:
        try:
            scores[name] = score(PREDICTORS[name], models, SPLITS[split], FLOORS[metric])
        except OntogenyError as error:
            refused[name] = str(error)
    return Table(split, scores, refused)


def train(models: Sequence[ModelCurves], metric: str, data: str, scores: Mapping[str, Score] | None = None) -> Trained:
    """Train, on all of `models`, the null or whatever of SHIPPABLE beats it when models are left out (`winners`).

    `scores` are those of SHIPPABLE with a model left out, made here where they are not given; `data` says in words what
    the models' curves are. Raises OntogenyError for fewer than LEAST_MODELS, with which no model could be left out
    twice.
    """
    if len(models) < LEAST_MODELS:
        raise OntogenyError(f"expected curves of {LEAST_MODELS} models or more to train on, got {len(models)}")
    if scores is None:
        scores = tabulated(models, metric, "leave one model out", SHIPPABLE).scores
    scores = {name: scores[name] for name in SHIPPABLE}
    best = (winners(scores, NULL) or [NULL])[0]
    predictor = cast("Shippable", PREDICTORS[best](leave_one_model_out))
    predictor.fit(models)
    level = min(LEVEL, highest_level(len(models)))
    lower = min(level, highest_level(len(models) - 1))
    archs = [model.arch for model in models]
    batches = {arch.batch_tokens for arch in archs}
    return Trained(
        metric=metric,
        predictor=best,
        state=predictor.to_dict(),
        floor=FLOORS[metric],
        error=scores[best].overall,
        null_error=scores[NULL].overall,
        of_model=dict(scores[best].of_model),
        level=level,
        half_width=half_width(list(scores[best].residuals.values()), level),
        coverage_level=lower,
        coverage=coverage(PREDICTORS[best], models, lower, FLOORS[metric]),
        models={model.name: len(model.layers) for model in models},
        last_step=max(float(model.steps.max()) for model in models),
        batch_tokens=batches.pop() if len(batches) == 1 else None,
        ranges=ranges_of(archs),
        facts=facts_of(archs),
        data=data,
    )
