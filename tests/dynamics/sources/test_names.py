"""Names of revisions and folders, as published series and trainers write them."""

from __future__ import annotations

import pytest

from ontogeny.dynamics.sources.names import Stated, read_name


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("step0", Stated(0)),
        ("step143000", Stated(143000)),
        ("checkpoint-500", Stated(500)),
        ("global_step20", Stated(20)),
        ("iter_0005000", Stated(5000)),
        ("step5500-tokens23B", Stated(5500, 23e9)),
        ("step1000-tokens4.5B", Stated(1000, 4.5e9)),
        ("stage1-step140000-tokens294B", Stated(140000, 294e9, "stage1")),
        ("stage2-ingredient1-step1000-tokens3B", Stated(1000, 3e9, "stage2-ingredient1")),
        ("epoch=1-step=500", Stated(500, run="epoch=1")),
        ("Step-7", Stated(7)),
    ],
)
def test_what_a_name_states(name, stated):
    assert read_name(name) == stated


@pytest.mark.parametrize(
    "name",
    ["main", "v1.0", "pythia-70m", "footstep9", "steps", "tokens23B", "refs/pr/4", "step7x", "mystep3", "step2/extra"],
)
def test_names_without_a_step_state_nothing(name):
    assert read_name(name) is None
