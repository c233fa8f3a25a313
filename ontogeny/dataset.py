"""Reading a scan's dataset: what curves and pictures have in common."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
import xarray as xr

RATIO_OF_MEANS = "ratio of means"
Selection = Literal["all", "without_sinks"]  # which of a depth's tokens are counted
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
SOUND = ("ok", "unaudited")  # verdicts of checkpoints that curves and sentences may rest on


class HasDataset(Protocol):
    """Anything that carries a dataset as docs/dataset.md has it, as a `Scan` does."""

    @property
    def dataset(self) -> xr.Dataset: ...


def sound_checkpoints(dataset: xr.Dataset) -> np.ndarray:
    """Whether each checkpoint is free of the audit's flags, (checkpoint,); all are, where there was no audit."""
    if "verdict" not in dataset.coords:
        return np.ones(dataset.sizes["checkpoint"], dtype=bool)
    return np.isin(np.atleast_1d(dataset["verdict"].values), SOUND)


def ratio_of_means(dataset: xr.Dataset) -> xr.DataArray:
    """The massive ratio (checkpoint, depth), float64: mean over sequences of max|h|, over that of median|h|.

    Source: arXiv 2508.03616, Eq. 8. A sequence without a value gives a ratio without one.
    """
    names = ("top_activation", "median_activation")
    top, median = (dataset[name].astype(np.float64).mean("sequence", skipna=False) for name in names)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = top.sel(rank=1, drop=True) / median
    return ratio.transpose("checkpoint", "depth")
