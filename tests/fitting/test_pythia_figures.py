"""The published measurements of Pythia: the bundled file, and how well its curves are fitted."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.fitting import Regime, fit_curves

# Mean R^2 over blocks of fits of `top1`, sequence 0, by a plain sketch: a grid of 41 x 30 shapes, tau0 up to 0.3 spans.
SKETCH = {"12b": 0.9879, "14m": 0.9665, "160m": 0.9947, "1b": 0.9900}

Series = dict[str, tuple[np.ndarray, np.ndarray]]


def test_the_bundled_file_is_what_its_readme_says(published_rows: list[dict[str, str]]) -> None:
    assert list(published_rows[0]) == ["model", "step", "sequence", "layer", "top1", "top2", "top3", "median"]
    assert len({(row["model"], row["step"]) for row in published_rows}) == 42
    steps: dict[str, dict[str, set[str]]] = {name: {model: set() for model in SKETCH} for name in ("top1", "median")}
    for row in published_rows:
        for name, models in steps.items():
            if row["model"] in models and row[name]:
                models[row["model"]].add(row["step"])
    counts = {name: {model: len(of_model) for model, of_model in models.items()} for name, models in steps.items()}
    assert counts == {
        "top1": {"12b": 15, "14m": 7, "160m": 12, "1b": 7},
        "median": {"12b": 0, "14m": 7, "160m": 11, "1b": 7},
    }


def test_the_blocks_with_curves(published_series: Series) -> None:
    shapes = {model: values.shape for model, (_, values) in published_series.items()}
    assert shapes == {"12b": (36, 15), "14m": (6, 7), "160m": (12, 12), "1b": (16, 7)}


@pytest.mark.parametrize("model", SKETCH)
def test_mean_r2_betters_the_sketch(model: str, published_series: Series) -> None:
    assert np.mean([fit.r2 for fit in fit_curves(*published_series[model])]) > SKETCH[model]


@pytest.mark.parametrize("model", SKETCH)
def test_no_shape_on_a_coarse_grid_fits_better(model: str, published_series: Series) -> None:
    steps, values = published_series[model]
    total = ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    best = np.full(len(values), -np.inf)
    span = np.ptp(steps)
    transient = np.sort(steps)[4] - steps.min()
    for beta in np.geomspace(2e-3 / span, 5 / transient, 25):
        for tau0 in np.geomspace(1e-2 * steps[steps > 0][0], 50 * span, 25):
            decay = np.exp(-beta * (steps - steps.min()))
            basis, _ = np.linalg.qr(np.stack([np.ones_like(steps), decay, decay * np.log(steps + tau0)], axis=1))
            best = np.maximum(best, 1 - ((values - values @ basis @ basis.T) ** 2).sum(1) / total)
    assert (np.array([fit.r2 for fit in fit_curves(steps, values)]) >= best - 1e-9).all()


def test_the_large_models_peak_in_mid_training_and_decline(published_series: Series) -> None:
    for model in ("1b", "12b"):
        steps, values = published_series[model]
        fits = fit_curves(steps, values)
        peaked = [fit for fit in fits if fit.regime is Regime.EARLY_PEAK]
        assert len(peaked) > 0.8 * len(fits)
        middle = fits[len(fits) // 2]
        assert middle.peak_step is not None
        assert 10_000 < middle.peak_step < 80_000
        assert middle.final_value is not None
        assert middle.curve is not None
        assert middle.final_value < 0.95 * float(middle.curve(middle.peak_step))
