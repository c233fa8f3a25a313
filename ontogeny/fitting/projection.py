"""Variable projection: for a given shape (beta, tau0) the rest of an emergence curve is a linear least-squares problem.

The curve f(t) = exp(-beta t) (A1 log(t + tau0) + A2) + K is written in columns that stay apart where the textbook ones
(log times exp, exp, one) merge: with s the steps since the first one,

    f = k + c0 (1 - exp(-beta s)) + c1 exp(-beta s) log(1 + s / (first + tau0)).

As beta vanishes the second column tends to s, and as tau0 grows the third tends to exp(-beta s) s: both limits are
curves that can be fitted, though A1, A2 and K themselves run off to infinity. Time is measured in units of the series'
span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.curve import EmergenceCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PARAMETERS = 5
GRID_SPACING = 0.3  # of ln beta and ln tau0; see docs/fitting.md for how often a coarser one missed
BETA_LOWEST = 1e-3  # per span: the exponential is a straight line to one part in a thousand
TRANSIENT_POINTS = 5  # distinct steps, the first included, that the transient covers at least,
TRANSIENT_FOLDS = 5.0  # in which it falls by exp() of this
TAU0_LOWEST = 1e-3  # of the first step after 0
TAU0_HIGHEST = 1e2  # spans: the logarithm is a straight line to one part in a hundred
EDGE = 0.05  # in ln beta or ln tau0: this near to the end of the region counts as at its end
EXPONENT_HIGHEST = 300.0  # of exp(beta first): A1 and A2 stay finite


@dataclass(frozen=True)
class Projection:
    """The steps and weights of a series, in the units in which shapes theta = (ln beta, ln tau0) are searched.

    `elapsed` (n,) in [0, 1] counts spans since the `first` step; `root_weights` (n,) are the weights' square roots;
    `lower` and `upper` (2,) bound the shapes. `first` and `span` are in steps.
    """

    elapsed: Array
    root_weights: Array
    first: float
    span: float
    lower: Array
    upper: Array

    @classmethod
    def of(cls, steps: Array, weights: Array) -> Projection:
        """The problem on `steps` (n,), of which at least PARAMETERS + 1 differ, with `weights` (n,), all positive."""
        distinct = np.unique(steps)
        first, span = float(distinct[0]), float(distinct[-1] - distinct[0])
        beta_highest = TRANSIENT_FOLDS * span / float(distinct[TRANSIENT_POINTS - 1] - first)
        if first > 0:
            beta_highest = min(beta_highest, EXPONENT_HIGHEST * span / first)
        tau0_lowest = TAU0_LOWEST * min(distinct[distinct > 0][0] / span, 1)
        return cls(
            elapsed=(steps - first) / span,
            root_weights=np.sqrt(weights / weights.mean()),
            first=first,
            span=span,
            lower=np.log([min(BETA_LOWEST, BETA_LOWEST * beta_highest), tau0_lowest]),
            upper=np.log([beta_highest, TAU0_HIGHEST]),
        )

    @property
    def offset(self) -> float:
        """The first step, in spans."""
        return self.first / self.span

    def grid(self) -> Array:
        """Shapes that cover the region: (beta, tau0, 2), evenly spaced in the logarithms, edges included."""
        axes = [
            np.linspace(low, high, 1 + int(np.ceil((high - low) / GRID_SPACING)))
            for low, high in zip(self.lower, self.upper, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

    def at_lower_edge(self, theta: Array) -> NDArray[np.bool_]:
        """Whether each of the coordinates (..., 2) is at the lower end of the region."""
        return theta - self.lower < EDGE

    def at_upper_edge(self, theta: Array) -> NDArray[np.bool_]:
        """Whether each of the coordinates (..., 2) is at the upper end of the region."""
        return self.upper - theta < EDGE

    def design(self, theta: Array) -> Array:
        """The weighted columns at shapes `theta` (..., 2): (..., n, 3)."""
        beta, tau0 = np.exp(theta[..., :1]), np.exp(theta[..., 1:])
        s, tau = self.elapsed, tau0 + self.offset
        rise = -np.expm1(-beta * s)
        hump = np.exp(-beta * s) * np.log1p(s / tau)
        return np.stack([np.ones_like(rise), rise, hump], axis=-1) * self.root_weights[:, None]

    def design_gradient(self, theta: Array) -> Array:
        """The derivatives of the weighted columns at shapes (..., 2) by the two coordinates: (..., 2, n, 3)."""
        beta, tau0 = np.exp(theta[..., :1]), np.exp(theta[..., 1:])
        s, tau = self.elapsed, tau0 + self.offset
        decay = np.exp(-beta * s)
        gradient = np.zeros((*theta.shape, s.size, 3))
        gradient[..., 0, :, 1] = beta * s * decay
        gradient[..., 0, :, 2] = -beta * s * decay * np.log1p(s / tau)
        gradient[..., 1, :, 2] = -decay * s * tau0 / (tau * (tau + s))
        return gradient * self.root_weights[:, None]

    def basis(self, theta: Array) -> Array:
        """Orthonormal columns that span the curves of shapes (..., 2): (..., n, 3)."""
        return np.linalg.qr(self.design(theta)).Q

    def linearise(self, theta: Array, targets: Array, emphasis: Array) -> tuple[Array, Array]:
        """The weighted residuals (p, n) of the best curves of shapes `theta` (p, 2), and their derivatives (p, n, 2).

        `emphasis` (p, n) are the roots of each series' own weights over `root_weights`.

        The derivatives follow the linear parameters too (Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973).
        """
        design, gradient = self.design(theta), self.design_gradient(theta)
        return project(design * emphasis[..., None], gradient * emphasis[:, None, :, None], targets)

    def linear(self, theta: Array, targets: Array, emphasis: Array) -> Array:
        """(k, c0, c1) of the best curves of shapes `theta` (p, 2): (p, 3)."""
        basis, triangle = np.linalg.qr(self.design(theta) * emphasis[..., None])
        return np.linalg.solve(triangle, basis.mT @ targets[..., None])[..., 0]

    def curve(self, theta: Array, linear: Array, scale: float, shift: float) -> EmergenceCurve:
        """The curve of shape `theta` and linear parameters `linear`, times `scale` plus `shift`, in steps."""
        k, c0, c1 = linear * scale
        beta, tau0 = np.exp(theta) / [self.span, 1 / self.span]
        growth = np.exp(beta * self.first)
        return EmergenceCurve(
            A1=float(growth * c1),
            A2=float(-growth * (c1 * np.log(self.first + tau0) + c0)),
            K=float(k + c0 + shift),
            beta=float(beta),
            tau0=float(tau0),
        )


def project(design: Array, gradient: Array, targets: Array) -> tuple[Array, Array]:
    """What the best combination of the columns leaves of `targets` (p, n), and its derivatives (p, n, 2) by the shape.

    `design` (p, n, 3) holds the columns, `gradient` (p, 2, n, 3) their derivatives.
    """
    basis, triangle = np.linalg.qr(design)
    inverse = np.linalg.inv(triangle)
    explained = basis.mT @ targets[..., None]
    residual = targets - (basis @ explained)[..., 0]
    moved = (gradient @ (inverse @ explained)[:, None])[..., 0]
    moved -= (moved @ basis) @ basis.mT
    turned = (residual[:, None, None] @ gradient)[:, :, 0] @ inverse @ basis.mT
    return residual, -(moved + turned).mT
