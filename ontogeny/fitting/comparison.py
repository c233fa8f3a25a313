"""The fitted series of a scan against rival curves: labelled data in, labelled data out."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from ontogeny.fitting.emergence import Verdict
from ontogeny.fitting.rivals import FAMILIES, compare

SOURCE = "arXiv:2508.03616"
SCORES = {
    "r2": "share of variance explained by the best curve of the family",
    "aicc": "Akaike's criterion with its small-sample correction: lower is better, only differences matter",
    "forecast": "root mean square error on the last checkpoints of a fit of the first 70 %, over the series' range",
}
SCORED = (Verdict.OK, Verdict.NOT_IDENTIFIABLE, Verdict.DID_NOT_CONVERGE)
UNSCORED = "none"


def compare_rivals(fits: xr.Dataset) -> xr.Dataset:
    """How the emergence curve and its rivals do on every series of `fits`, which `fit` returned.

    `r2`, `aicc` and `forecast` over the places of `fits` and `family`, NaN where there are too few points; and `best`,
    the family of the lowest `aicc`, "none" where no curve was fitted. All are by plain squares, whatever the weights
    and the loss of `fits` were.
    """
    places = [str(dim) for dim in fits["verdict"].dims]
    observed = fits["observed"].transpose(*places, "checkpoint")
    steps = observed["step"].values
    rows = observed.values.reshape(fits["verdict"].size, steps.size)
    scores = np.full((len(SCORES), len(rows), len(FAMILIES)), np.nan)
    best = np.full(len(rows), UNSCORED, dtype=object)
    for i, (verdict, values) in enumerate(zip(fits["verdict"].values.ravel(), rows, strict=True)):
        found = compare(steps, values) if verdict in SCORED else []
        for one in found:
            scores[:, i, FAMILIES.index(one.name)] = [getattr(one, name) for name in SCORES]
        if found and math.isfinite(found[0].aicc):
            best[i] = found[0].name
    shape = fits["verdict"].shape
    variables = {
        name: (
            (*places, "family"),
            values.reshape(*shape, len(FAMILIES)),
            {"long_name": SCORES[name], "units": "1", "source": SOURCE},
        )
        for name, values in zip(SCORES, scores, strict=True)
    }
    named = {"long_name": "family of the lowest aicc", "units": "1", "source": SOURCE}
    return xr.Dataset(
        {**variables, "best": (places, best.reshape(shape), named)},
        {"family": list(FAMILIES), **{name: fits[name] for name in places if name in fits.coords}},
        {name: fits.attrs[name] for name in ("metric", "definition", "series", "source") if name in fits.attrs},
    )
