"""Reading a scan's dataset: what curves and pictures have in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import xarray as xr

RATIO_OF_MEANS = "ratio of means"


class HasDataset(Protocol):
    """Anything that carries a dataset as docs/dataset.md has it, as a `Scan` does."""

    @property
    def dataset(self) -> xr.Dataset: ...


def ratio_of_means(dataset: xr.Dataset) -> xr.DataArray:
    """The massive ratio (checkpoint, depth), float64: mean over sequences of max|h|, over that of median|h|.

    Source: arXiv 2508.03616, Eq. 8. A sequence without a value gives a ratio without one.
    """
    names = ("top_activation", "median_activation")
    top, median = (dataset[name].astype(np.float64).mean("sequence", skipna=False) for name in names)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = top.sel(rank=1, drop=True) / median
    return ratio.transpose("checkpoint", "depth")
