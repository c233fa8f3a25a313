"""Measured curves of several models: what predictors are trained on and scored against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xarray as xr

from ontogeny.archspec import ArchSpec
from ontogeny.dataset import HasDataset
from ontogeny.errors import UsageError
from ontogeny.fitting.architecture.basis import misfits
from ontogeny.fitting.architecture.features import feature_matrix
from ontogeny.fitting.curve import EmergenceCurve
from ontogeny.fitting.emergence import fit_curves
from ontogeny.fitting.projection import PARAMETERS
from ontogeny.fitting.scan import fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# The least value that a metric can have: the median is no larger than the largest.
FLOORS = {"massive_ratio": 1.0, "top_activation": 0.0}


@dataclass(frozen=True, eq=False)
class ModelCurves:
    """Curves of one model: `values` (m, n) of its `layers` (m,) at `steps` (n,), finite, each with a range above 0.

    `fitted` are the curves fitted to them, where that was asked for (`with_fits`); None in it is a fit without one.
    """

    name: str
    arch: ArchSpec
    layers: NDArray[np.intp]
    steps: Array
    values: Array
    fitted: tuple[EmergenceCurve | None, ...] | None = None

    @cached_property
    def features(self) -> Array:
        """FEATURES of each layer, (m, F)."""
        return feature_matrix(self.arch, [int(layer) for layer in self.layers])

    @cached_property
    def misfits(self) -> Array:
        """What each shape of the shared grid leaves of each curve (m, shapes), see `basis.misfits`."""
        return misfits(self.steps, self.values / self.ranges[:, None])

    @property
    def ranges(self) -> Array:
        """Largest minus smallest measured value of each curve, (m,)."""
        return np.ptp(self.values, axis=1)

    def subset(self, rows: NDArray[np.intp]) -> ModelCurves:
        """The curves `rows`."""
        fitted = None if self.fitted is None else tuple(self.fitted[row] for row in rows)
        return replace(self, layers=self.layers[rows], values=self.values[rows], fitted=fitted)

    def with_fits(self) -> ModelCurves:
        """The same with each curve fitted by itself, for predictors of parameters."""
        if self.fitted is not None:
            return self
        return replace(self, fitted=tuple(one.curve for one in fit_curves(self.steps, self.values)))


class CurvePredictor(Protocol):
    """Trained on curves of several models, foretells those of another from its features alone."""

    def fit(self, models: Sequence[ModelCurves]) -> None:
        """Learn from `models`, one at least. Raises OntogenyError where they are too few for this predictor."""

    def curves(self, features: Array) -> list[EmergenceCurve]:
        """The curve for each row of FEATURES, (m, F)."""


def measured_curves(
    scans: Mapping[str, HasDataset | xr.Dataset], metric: str
) -> tuple[list[ModelCurves], dict[str, str]]:
    """The curves of `metric` in scans by name of the model, and why the models that have none are left out.

    They are the series that `ontogeny.fit` fits, at the depths behind blocks; a checkpoint that lacks a value at any
    of them is left out. Each dataset's attribute `arch` says what its model is.
    """
    models, left_out = [], {}
    for name, scan in scans.items():
        dataset = scan if isinstance(scan, xr.Dataset) else scan.dataset
        found = _curves_of(name, dataset, metric)
        if isinstance(found, str):
            left_out[name] = found
        else:
            models.append(found)
    return models, left_out


def _curves_of(name: str, dataset: xr.Dataset, metric: str) -> ModelCurves | str:
    observed = fit(dataset, metric, level=None)["observed"]
    if set(observed.dims) not in ({"depth", "checkpoint"}, {"layer", "checkpoint"}):
        raise UsageError(
            f"expected a metric over depth or layer, got {metric} over {', '.join(map(str, observed.dims))}"
        )
    arch = ArchSpec(**json.loads(dataset.attrs["arch"]))
    layers = observed["layer"].values if "layer" in observed.dims else observed["depth"].values - 1
    values = observed.transpose(..., "checkpoint").values[layers >= 0]
    whole = np.isfinite(values).all(axis=0)
    steps = observed["step"].values[whole].astype(float)
    if np.unique(steps).size <= PARAMETERS:
        return f"{metric} is known at {np.unique(steps).size} steps: expected {PARAMETERS + 1} or more"
    values = values[:, whole]
    moving = np.ptp(values, axis=1) > 0
    if not moving.any():
        return f"{metric} is constant"
    return ModelCurves(name, arch, layers[layers >= 0][moving], steps, values[moving])
