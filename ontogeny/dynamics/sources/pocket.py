"""The small series that the package carries."""

from __future__ import annotations

from dataclasses import replace

from ontogeny.dynamics import backcopy
from ontogeny.dynamics.pocket import SHIPPED, SHIPPED_RECIPE
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.local import open_local
from ontogeny.errors import OntogenyError


def open_pocket() -> Series:
    """The embedded series, measured on its own task. Raises OntogenyError where the installation lacks its files."""
    if not SHIPPED.is_dir():
        raise OntogenyError(f"the installed package lacks the pocket series at {SHIPPED}: install ontogeny again")
    series = open_local(SHIPPED)
    batch_tokens = SHIPPED_RECIPE.batch_size * backcopy.LENGTH
    return replace(
        series,
        source="pocket",
        name="pocket",
        checkpoints=tuple(
            replace(one, tokens=float(one.step * batch_tokens), modified=None) for one in series.checkpoints
        ),
        arch=replace(
            series.arch, dtype="float32", batch_tokens=batch_tokens, init="normal(0.02)", seed=SHIPPED_RECIPE.seed
        ),
        tokenizer=lambda: None,
        task=backcopy.sample,
    )
