"""The numbers that stand for an architecture and a layer, and those that no transformer has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ontogeny
from ontogeny.dynamics.published.pythia import pythia_arch
from ontogeny.errors import UsageError
from ontogeny.fitting.architecture.features import FEATURES, feature_matrix, specification


def test_features_of_a_layer_by_hand() -> None:
    row = dict(zip(FEATURES, feature_matrix(pythia_arch("1b"), [3])[0], strict=True))
    assert row == pytest.approx(
        {
            "l/(L-1)": 3 / 15,
            "l/L": 0.1875,
            "(l/L)^2": 0.1875**2,
            "(l/L)^3": 0.1875**3,
            "sqrt(l/L)": 0.1875**0.5,
            "H/d": 8 / 2048,
            "d_ff/d": 4.0,
            "d/L": 128.0,
            "H/L": 0.5,
            "log d": np.log(2048),
            "l L": 48.0,
            "bfloat16": 1.0,
            "other init": 0.0,
            "rotary": 1.0,
            "parallel residual": 1.0,
        }
    )
    other = dict(zip(FEATURES, feature_matrix(pythia_arch("12b"), [0])[0], strict=True))
    assert other["bfloat16"] == 0 and other["other init"] == 1


def test_a_model_of_one_layer_has_a_depth() -> None:
    assert feature_matrix(specification({"layers": 1, "width": 8, "heads": 2}), [0])[0, 0] == 0


def test_numbers_are_completed_as_usual() -> None:
    arch = specification({"layers": 2, "width": 64, "heads": 4, "ffn": None})
    assert (arch.head_dim, arch.kv_heads, arch.ffn, arch.positional) == (16, 4, 256, "unknown")
    assert specification({"layers": 2, "width": 100, "heads": 16, "head_dim": 64}).head_dim == 64


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layers": 0, "width": 64, "heads": 4}, "positive whole number as layers, got 0"),
        ({"layers": 2, "width": -64, "heads": 4}, "positive whole number as width, got -64"),
        ({"layers": 2, "width": 64, "heads": 0}, "positive whole number as heads, got 0"),
        ({"layers": 2.5, "width": 64, "heads": 4}, "positive whole number as layers, got 2.5"),
        ({"layers": True, "width": 64, "heads": 4}, "as layers, got True"),
        ({"layers": 2, "width": 64, "heads": 5}, "heads that divide the width, got 5 heads and width 64"),
        ({"layers": 2, "width": 4, "heads": 64}, "heads that divide the width, got 64 heads and width 4"),
        ({"layers": 2, "width": 64, "heads": 4, "ffn": -1}, "as ffn, got -1"),
        ({"layers": 2, "width": 64, "heads": 4, "kv_heads": 3}, "kv_heads that divide the heads, got 3"),
        ({"layers": 2, "width": 64}, "its layers, width and heads"),
        ({"layers": 2, "width": 64, "heads": 4, "charm": 1}, "other fields of it; got"),
    ],
)
def test_numbers_that_no_transformer_has_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ontogeny.predict(given)


def test_a_specification_is_checked_too() -> None:
    with pytest.raises(UsageError, match="got 0"):
        ontogeny.predict(replace(pythia_arch("1b"), layers=0))
    with pytest.raises(UsageError, match="heads that divide"):
        ontogeny.predict(replace(pythia_arch("1b"), heads=7, kv_heads=7, head_dim=2048 // 7))


@pytest.mark.parametrize("layer", [-1, 16, 1.0, True])
def test_a_layer_that_there_is_not_is_refused(layer: object) -> None:
    with pytest.raises(UsageError, match="a layer from 0 to 15"):
        ontogeny.predict(pythia_arch("1b"), layer)
