"""The figure of losses under interventions: its numbers are the dataset's."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny import plots
from ontogeny.errors import OntogenyError
from tests.synthetic import POCKET_STEPS, scan_dataset, with_ablation


def test_one_line_for_the_model_and_one_for_each_intervention() -> None:
    dataset = with_ablation(scan_dataset())
    fig = plots.loss(dataset)
    assert [line.name for line in fig.data] == ["unchanged", "zero", "mean", "no sinks"]
    np.testing.assert_allclose(fig.data[0].y, dataset["loss"].values, rtol=1e-6)
    for line, name in zip(fig.data[1:], dataset["intervention"].values, strict=True):
        of_one = dataset.sel(intervention=name)
        np.testing.assert_allclose(line.y, of_one["loss_ablated"].values, rtol=1e-6)
        np.testing.assert_allclose(line.x, np.log10(1 + np.array(POCKET_STEPS)))
        change, error = (of_one["loss_ablated"] - of_one["loss"]).values[-1], of_one["loss_change_error"].values[-1]
        assert line.customdata[-1] == f"{change:+.4f} ± {error:.4f}"
    assert fig.layout.yaxis.title.text == "loss (nats)"


def test_the_axis_is_logarithmic_only_where_losses_differ_much() -> None:
    dataset = with_ablation(scan_dataset())
    assert plots.loss(dataset).layout.yaxis.type is None
    dataset["loss_ablated"][-1, 0] = 100.0
    assert plots.loss(dataset).layout.yaxis.type == "log"


def test_errors_that_were_not_measured_are_not_shown() -> None:
    fig = plots.loss(with_ablation(scan_dataset()).drop_vars("loss_change_error"))
    assert "±" not in "".join(fig.data[1].customdata)


def test_a_single_checkpoint_is_bars() -> None:
    dataset = with_ablation(scan_dataset((-1,)))
    (bars,) = plots.loss(dataset).data
    assert bars.y == ("unchanged", "zero", "mean", "no sinks")
    np.testing.assert_allclose(bars.x, [dataset["loss"].values[0], *dataset["loss_ablated"].values[0]])


def test_names_of_interventions_are_escaped_and_cut() -> None:
    dataset = with_ablation(scan_dataset(), ("<b>bold</b>", "n" * 80))
    lines = plots.loss(dataset).data
    assert lines[1].name == "&lt;b&gt;bold&lt;/b&gt;" and "<b>" not in lines[1].hovertemplate
    assert lines[2].name == f"{'n' * 39}…"


def test_a_dataset_without_losses_names_the_probe() -> None:
    with pytest.raises(OntogenyError, match="no `loss`; scan again with the probe `ablation`"):
        plots.loss(scan_dataset())
