"""Predictors that know hardly anything: the mean curve at a relative depth, and that one scaled with the width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ontogeny.fitting.architecture.basis import Basis
from ontogeny.fitting.architecture.features import LOG_WIDTH, RELATIVE_DEPTH, columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import ModelCurves
    from ontogeny.fitting.curve import EmergenceCurve

    Array = NDArray[np.float64]


class Profile(NamedTuple):
    """Curves of one model over depth: `coefficients` (m, 3) at relative depths `at` (m,), ascending."""

    at: Array
    coefficients: Array


class Null:
    """The mean over models of their curves at the same relative depth l / (L - 1), each interpolated over its layers.

    What is not better than this has learned nothing from the architecture.
    """

    basis: Basis
    profiles: list[Profile]

    def fit(self, models: Sequence[ModelCurves]) -> None:
        """Read every model's curves as coefficients of one shape."""
        self.basis = Basis.of(models)
        self.profiles = [profile_of(self.basis, model) for model in models]

    def curves(self, features: Array) -> list[EmergenceCurve]:
        return self.basis.curves(self.coefficients(features))

    def coefficients(self, features: Array) -> Array:
        """(k, c0, c1) for each row of FEATURES, (m, 3)."""
        return mean_profile(self.profiles, features)

    def to_dict(self) -> dict[str, Any]:
        """The state as plain numbers, exact."""
        return {
            "beta": self.basis.beta,
            "tau0": self.basis.tau0,
            "profiles": [{"at": one.at.tolist(), "coefficients": one.coefficients.tolist()} for one in self.profiles],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Null:
        """The predictor whose `to_dict` gave `state`."""
        null = cls()
        null.basis = Basis(state["beta"], state["tau0"])
        null.profiles = [Profile(np.array(one["at"]), np.array(one["coefficients"])) for one in state["profiles"]]
        return null


class Scale:
    """The mean of the curves' forms at that relative depth, times a height that is a power of the width.

    A model's height is the geometric mean over its layers of the largest measured magnitude; its logarithm is regressed
    on log d.
    """

    forms: Null
    intercept: float
    slope: float

    def fit(self, models: Sequence[ModelCurves]) -> None:
        """Find the heights, regress them, and average what is left of the curves."""
        width = np.array([np.log(model.arch.width) for model in models])
        height = np.array([np.log(np.abs(model.values).max(axis=1)).mean() for model in models])
        spread = width - width.mean()
        self.slope = float(spread @ height / (spread @ spread)) if np.ptp(width) > 0 else 0.0
        self.intercept = float(height.mean() - self.slope * width.mean())
        self.forms = Null()
        self.forms.fit(models)
        self.forms.profiles = [
            Profile(one.at, one.coefficients / np.exp(own))
            for one, own in zip(self.forms.profiles, height, strict=True)
        ]

    def curves(self, features: Array) -> list[EmergenceCurve]:
        height = np.exp(self.intercept + self.slope * features[:, columns([LOG_WIDTH])])
        return self.forms.basis.curves(height * self.forms.coefficients(features))

    def to_dict(self) -> dict[str, Any]:
        """The state as plain numbers, exact."""
        return {"intercept": self.intercept, "slope": self.slope, "forms": self.forms.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Scale:
        """The predictor whose `to_dict` gave `state`."""
        scale = cls()
        scale.intercept, scale.slope = state["intercept"], state["slope"]
        scale.forms = Null.from_dict(state["forms"])
        return scale


def profile_of(basis: Basis, model: ModelCurves) -> Profile:
    """The model's curves in `basis`, over relative depth."""
    at = model.features[:, columns([RELATIVE_DEPTH])[0]]
    order = np.argsort(at)
    return Profile(at[order], basis.coefficients(model.steps, model.values)[order])


def mean_profile(profiles: Sequence[Profile], features: Array) -> Array:
    """The mean of the profiles' coefficients at the relative depths of `features`, (m, 3)."""
    at = features[:, columns([RELATIVE_DEPTH])[0]]
    each = [
        np.stack([np.interp(at, one.at, one.coefficients[:, j]) for j in range(one.coefficients.shape[1])], axis=1)
        for one in profiles
    ]
    return np.asarray(np.mean(each, axis=0))
