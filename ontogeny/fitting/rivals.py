"""Other curves for the same series, and which of them says most with least.

Each is linear in some parameters once its shape is given, so that variable projection finds the best one globally: a
grid over shapes, then descents from its lowest places. Steps enter as elapsed steps s since the first, or as
log(1 + s).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.descent import descend
from ontogeny.fitting.emergence import fit_curve
from ontogeny.fitting.projection import PARAMETERS, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

OURS = "exponential-logarithmic"
SHAPES_A_SIDE = 24
STARTS = 8
DIFFERENCE = 1e-6
RIDGE = 1e-7  # against targets of norm 1
EARLY = 0.7  # of the checkpoints, the earliest, from which the rest is forecast


@dataclass(frozen=True)
class Rival:
    """A family of curves: its columns (p, n, k) at elapsed `s` (n,) for shapes (p, 2), and the region of its shapes.

    `parameters` counts all of them. A shape of one number ignores the second,
    whose region is a point, so that all descents start from different places.
    """

    name: str
    source: str
    parameters: int
    columns: Callable[[Array, Array], Array]
    region: Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Score:
    """How a family fits one series of n points.

    `aicc` is Akaike's criterion with its small-sample correction, n ln(squares / n) + 2 k + 2 k (k + 1) / (n - k - 1),
    k counting the noise; `forecast` is the root mean square error on the last checkpoints, of a fit of the first 70 %,
    over the range of the whole series. Either is NaN where there are too few points for it.
    """

    name: str
    parameters: int
    r2: float
    aicc: float
    forecast: float


def first_order(s: Array, shape: Array) -> Array:
    """1 and exp(-s / T): the step response of a first-order system; shape = (ln T, ignored)."""
    return _stacked(np.exp(-s / np.exp(shape[:, :1])))


def second_order(s: Array, shape: Array) -> Array:
    """1 and the step response of a second-order system; shape = (ln omega, ln zeta), zeta = 1: critically damped."""
    omega, zeta = np.exp(shape[:, :1]), np.exp(shape[:, 1:])
    root = np.sqrt((zeta**2 - 1).astype(complex))
    root = np.where(np.abs(root) < 1e-6, 1e-6, root)
    slow, fast = -zeta + root, -zeta - root
    response = (slow * np.exp(fast * omega * s) - fast * np.exp(slow * omega * s)) / (slow - fast)
    return _stacked(response.real)


def power_law(s: Array, shape: Array) -> Array:
    """1 and (1 + s / T) ** p; shape = (ln T, p)."""
    return _stacked((1 + s / np.exp(shape[:, :1])) ** shape[:, 1:])


def logistic(s: Array, shape: Array) -> Array:
    """1 and a logistic function of log(1 + s); shape = (its middle, ln of its width)."""
    return _stacked(0.5 * (1 + np.tanh((np.log1p(s) - shape[:, :1]) / (2 * np.exp(shape[:, 1:])))))


def broken_line(s: Array, shape: Array) -> Array:
    """1, log(1 + s), and what it exceeds a knot by: two straight lines that meet; shape = (the knot, ignored)."""
    x = np.log1p(s) + np.zeros_like(shape[:, :1])
    return np.stack([np.ones_like(x), x, np.maximum(x - shape[:, :1], 0)], axis=-1)


RIVALS = (
    Rival("first-order step response", "2508.03616", 3, first_order, lambda s: _bounds(_times(s), (0, 0))),
    Rival(
        "second-order step response",
        "2508.03616",
        4,
        second_order,
        lambda s: _bounds((-_times(s)[1], -_times(s)[0]), (math.log(0.05), math.log(20))),
    ),
    Rival("power law", "none", 4, power_law, lambda s: _bounds(_times(s), (-4, 2))),
    Rival(
        "logistic in log step",
        "none",
        4,
        logistic,
        lambda s: _bounds((0, math.log1p(s.max())), (math.log(0.05), math.log(5))),
    ),
    Rival("piecewise linear in log step", "none", 4, broken_line, lambda s: _bounds(_knots(s), (0, 0))),
)

FAMILIES = (OURS, *(rival.name for rival in RIVALS))


def compare(steps: Array, values: Array) -> list[Score]:
    """How the emergence curve and its rivals fit and forecast `values` (n,) at `steps` (n,), ordered by `aicc`.

    Values must be finite. Sources: arXiv 2508.03616 compares with the step responses, by R^2 and AIC.
    """
    order = np.argsort(steps, kind="stable")
    t, y = np.asarray(steps, dtype=float)[order], np.asarray(values, dtype=float)[order]
    early = math.ceil(EARLY * t.size)
    families: list[tuple[str, int, Callable[[Array, Array], Callable[[Array], Array] | None]]] = [
        (OURS, PARAMETERS, _fit_ours),
        *((one.name, one.parameters, _fitter(one)) for one in RIVALS),
    ]
    scores = [_score(name, count, fitter, t, y, early) for name, count, fitter in families]
    return sorted(scores, key=lambda score: (math.isnan(score.aicc), score.aicc))


def _score(
    name: str,
    parameters: int,
    fitter: Callable[[Array, Array], Callable[[Array], Array] | None],
    t: Array,
    y: Array,
    early: int,
) -> Score:
    n, k = t.size, parameters + 1
    whole = fitter(t, y) if np.unique(t).size > parameters else None
    r2 = aicc = math.nan
    if whole is not None and np.ptp(y) > 0:
        squares = float(((y - whole(t)) ** 2).sum())
        r2 = 1 - squares / float(((y - y.mean()) ** 2).sum())
        if n > k + 1:
            aicc = n * math.log(max(squares, np.finfo(float).tiny) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    forecast = math.nan
    if early < n and np.unique(t[:early]).size > parameters and np.ptp(y) > 0:
        first = fitter(t[:early], y[:early])
        if first is not None:
            forecast = float(np.sqrt(((y[early:] - first(t[early:])) ** 2).mean()) / np.ptp(y))
    return Score(name, parameters, r2, aicc, forecast)


def _fit_ours(t: Array, y: Array) -> Callable[[Array], Array] | None:
    return fit_curve(t, y).curve


def _fitter(rival: Rival) -> Callable[[Array, Array], Callable[[Array], Array]]:
    def fitted(t: Array, y: Array) -> Callable[[Array], Array]:
        s = t - t.min()
        lower, upper = rival.region(s)
        axes = [np.unique(np.linspace(low, high, SHAPES_A_SIDE)) for low, high in zip(lower, upper, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        norm = max(float(np.linalg.norm(y - y.mean())), np.finfo(float).tiny)
        target = (y - y.mean()) / norm

        def linearise(shape: Array, which: NDArray[np.intp]) -> tuple[Array, Array]:
            design, gradient = _design(rival, s, shape)
            padded = np.pad(target, (0, design.shape[1] - len(target)))
            return project(design, gradient, np.tile(padded, (len(which), 1)))

        residual, _ = linearise(grid, np.arange(len(grid)))
        starts = grid[np.argsort((residual**2).sum(-1), kind="stable")[:STARTS]]
        found = descend(linearise, starts, lower, upper)
        best = found.theta[[int(found.cost.argmin())]]
        linear = np.linalg.lstsq(rival.columns(s, best)[0], target, rcond=None)[0]
        return lambda at: (rival.columns(at - t.min(), best)[0] @ linear) * norm + y.mean()

    return fitted


def _design(rival: Rival, s: Array, shape: Array) -> tuple[Array, Array]:
    """The columns and their derivatives, with rows below that keep columns apart where a shape makes them equal."""
    slopes = []
    for axis in range(2):
        step = np.zeros(2)
        step[axis] = DIFFERENCE
        slopes.append((rival.columns(s, shape + step) - rival.columns(s, shape - step)) / (2 * DIFFERENCE))
    columns = rival.columns(s, shape)
    count = columns.shape[-1]
    ridge = np.broadcast_to(RIDGE * np.eye(count), (len(shape), count, count))
    gradient = np.pad(np.stack(slopes, axis=1), ((0, 0), (0, 0), (0, count), (0, 0)))
    return np.concatenate([columns, ridge], axis=1), gradient


def _stacked(column: Array) -> Array:
    return np.stack([np.ones_like(column), column], axis=-1)


def _bounds(first: tuple[float, float], second: tuple[float, float]) -> tuple[Array, Array]:
    return np.array([first[0], second[0]], dtype=float), np.array([first[1], second[1]], dtype=float)


def _times(s: Array) -> tuple[float, float]:
    """Logarithms of a tenth of the first interval and of a hundred spans."""
    return math.log(s[s > 0].min() / 10), math.log(100 * s.max())


def _knots(s: Array) -> tuple[float, float]:
    """From the second distinct step to the last but one, as log(1 + s)."""
    inner = np.unique(s)[1:-1]
    return math.log1p(inner[0]), math.log1p(inner[-1]) + 1e-9
