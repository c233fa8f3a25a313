"""Bands: the quantile by hand, what can be promised, and what they cover of models never seen."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.errors import UsageError
from ontogeny.fitting.architecture.depth_only import Null
from ontogeny.fitting.architecture.intervals import coverage, covered, half_width, highest_level
from ontogeny.fitting.architecture.registry import PREDICTORS
from ontogeny.fitting.architecture.validation import residuals_of
from tests.fitting.architecture.families import STEPS, archs, depth_only, family


def test_the_quantile_by_hand() -> None:
    residuals = [np.array([[1.0, 2.0]]), np.array([[3.0]]), np.array([[4.0, 5.0], [6.0, 7.0]])]
    # Weights 1/8, 1/8; 1/4; 1/16 each; and 1/4 at infinity.
    assert half_width(residuals, 0.12) == 1.0
    assert half_width(residuals, 0.25) == 2.0
    assert half_width(residuals, 0.5) == 3.0
    assert half_width(residuals, 0.51) == 4.0
    assert half_width(residuals, 0.75) == 7.0


def test_no_more_is_promised_than_so_many_models_allow() -> None:
    assert highest_level(4) == 0.8
    residuals = [np.ones((2, 3))] * 4
    assert half_width(residuals, 0.8) == 1.0
    with pytest.raises(UsageError, match=r"up to 0\.80, as 4 models were left out in turn; got 0\.9"):
        half_width(residuals, 0.9)


def test_bands_cover_models_never_seen() -> None:
    shares = []
    for seed in range(12):
        models = family(archs(40, seed), depth_only, noise=0.05, offset=0.3, seed=seed)
        seen, unseen = models[:20], models[20:]
        width = half_width(residuals_of(PREDICTORS["null"], seen), 0.9)
        null = Null()
        null.fit(seen)
        shares += [covered(null, model, width, STEPS[-1], -np.inf) for model in unseen]
    assert 0.88 < np.mean(shares) < 0.97


def test_measured_coverage_leaves_each_model_out() -> None:
    models = family(archs(20, 5), depth_only, noise=0.05, offset=0.3, seed=5)
    shares = coverage(PREDICTORS["null"], models, 0.9)
    assert set(shares) == {model.name for model in models}
    assert 0.8 < np.mean(list(shares.values())) < 1.0
    with pytest.raises(UsageError, match="as 3 models"):
        coverage(PREDICTORS["null"], models[:4], 0.8)
