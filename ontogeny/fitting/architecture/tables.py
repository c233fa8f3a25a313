"""Scores of predictors as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ontogeny.fitting.architecture.folds import ERROR_LARGEST
from ontogeny.fitting.architecture.measured import ModelCurves
from ontogeny.fitting.architecture.registry import NULL
from ontogeny.fitting.architecture.stored import Trained
from ontogeny.fitting.architecture.training import Table
from ontogeny.fitting.architecture.validation import chance

TITLES = {
    "leave one model out": "Leave one model out (the headline)",
    "random": "Random split, 5 folds over layers (leaks between layers of one model; for comparison alone)",
}


def score_table(table: Table) -> str:
    """Errors by predictor and model, overall and typical, and the chance of such a gain over the null."""
    names = list(dict.fromkeys(name for one in table.scores.values() for name in one.of_model))
    head = ["predictor", *names, "overall", "typical"]
    left_out = table.split == "leave one model out"
    rows = [[*head, "chance"] if left_out else head]
    for predictor, one in table.scores.items():
        row = [predictor, *(number(one.of_model[name]) for name in names), number(one.overall), number(one.typical)]
        if left_out:
            against = table.scores.get(NULL)
            row.append("" if predictor == NULL or against is None else number(chance(one.of_model, against.of_model)))
        rows.append(row)
    rows += [[name, reason, *[""] * (len(rows[0]) - 2)] for name, reason in table.refused.items()]
    return f"**{TITLES[table.split]}**\n\n{markdown(rows)}"


def page(metric: str, models: Sequence[ModelCurves], tables: Sequence[Table], trained: Trained) -> str:
    """The part of the predictor's card about one metric: its data, its scores, and what ships."""
    data = [["model", "curves", "steps", "from", "to", "median range"]]
    for model in models:
        middle = sorted(model.ranges)[len(model.ranges) // 2]
        ends = f"{model.steps.min():,.0f}", f"{model.steps.max():,.0f}"
        data.append([model.name, str(len(model.layers)), str(model.steps.size), *ends, f"{middle:.3g}"])
    covered = ", ".join(f"{name} {share:.2f}" for name, share in trained.coverage.items())
    shipped = (
        f"Ships: **{trained.predictor}**, error {number(trained.error)} of the measured range. Band: level "
        f"{trained.level:.2f}, ± {number(trained.half_width)} times the largest magnitude foretold of any layer. "
        f"Bands of level {trained.coverage_level:.2f} made without a model cover this share of its points: {covered}."
    )
    parts = [f"### `{metric}`", trained.data, markdown(data), *(score_table(table) for table in tables), shipped]
    return "\n\n".join(parts)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the heading, as a table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def number(value: float) -> str:
    """Three digits; what reached the cap of errors is said to be beyond it."""
    if value >= ERROR_LARGEST / 10:
        return f"> {ERROR_LARGEST / 10:.0e}".replace("e+0", "e")
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
