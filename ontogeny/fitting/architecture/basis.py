"""One shape (beta, tau0) for all curves of all models: a curve is then three numbers, which may be averaged.

f = k + c0 (1 - exp(-beta t)) + c1 exp(-beta t) log(1 + t / tau0), the columns of `projection` with the first step at
0. Sums and means of curves of one shape are curves of that shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.curve import EmergenceCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.architecture.measured import ModelCurves

    Array = NDArray[np.float64]

BETAS = np.geomspace(1e-7, 1e-2, 31)  # per step
TAU0S = np.geomspace(1.0, 1e7, 22)  # steps
GRID_STEPS = 61


@dataclass(frozen=True)
class Basis:
    """Three columns of one shape: `beta` per step, `tau0` in steps."""

    beta: float
    tau0: float

    @classmethod
    def of(cls, models: Sequence[ModelCurves]) -> Basis:
        """The shape of the grid that leaves least of the curves, squared and in units of their ranges.

        Each model counts once, however many curves it has.
        """
        left = np.mean([model.misfits.mean(axis=0) for model in models], axis=0)
        beta, tau0 = divmod(int(left.argmin()), TAU0S.size)
        return cls(float(BETAS[beta]), float(TAU0S[tau0]))

    def columns(self, steps: Array) -> Array:
        """1, the rise and the hump at `steps` (n,): (n, 3)."""
        return _columns(steps, np.array(self.beta), np.array(self.tau0))

    def coefficients(self, steps: Array, values: Array) -> Array:
        """(k, c0, c1) of the nearest curves to `values` (m, n), (m, 3)."""
        return np.asarray(np.linalg.lstsq(self.columns(steps), values.T, rcond=None)[0].T, dtype=float)

    def curves(self, coefficients: Array) -> list[EmergenceCurve]:
        """The curves of `coefficients` (m, 3)."""
        offset = math.log(self.tau0)
        return [
            EmergenceCurve(A1=float(c1), A2=float(-(c1 * offset + c0)), K=float(k + c0), beta=self.beta, tau0=self.tau0)
            for k, c0, c1 in coefficients
        ]


def misfits(steps: Array, values: Array) -> Array:
    """The mean squared residuals of `values` (m, n) for every shape of the grid, (m, BETAS x TAU0S)."""
    bases = _bases(tuple(float(step) for step in steps))
    explained = ((values @ bases) ** 2).sum(-1)
    return np.asarray(((values**2).sum(-1) - explained).T / steps.size)


def grid_steps(last_step: float) -> Array:
    """Step 0 and whole steps up to `last_step`, evenly spaced in the logarithm: where a predicted curve is given."""
    return np.unique(np.append(np.round(np.geomspace(1, max(last_step, 1), GRID_STEPS)), 0.0))


@lru_cache(maxsize=32)
def _bases(steps: tuple[float, ...]) -> Array:
    beta, tau0 = (grid.ravel() for grid in np.meshgrid(BETAS, TAU0S, indexing="ij"))
    columns = _columns(np.array(steps), beta[:, None], tau0[:, None])
    return np.linalg.qr(columns / np.linalg.norm(columns, axis=1, keepdims=True)).Q


def _columns(steps: Array, beta: Array, tau0: Array) -> Array:
    rise = -np.expm1(-beta * steps)
    hump = np.exp(-beta * steps) * np.log1p(steps / tau0)
    return np.stack([np.ones_like(rise), rise, hump], axis=-1)
