"""The shapes of the best curves: a global search on a grid, then descents from its lowest tiles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.fitting.descent import Descent, descend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ontogeny.fitting.projection import Projection

    Array = NDArray[np.float64]

TILE = 8  # grid places a side: a tile spans a factor of 11 in beta and in tau0
STARTS = 16  # tiles that are descended from, lowest first
BLOCK = 256  # series searched at once, to bound memory


def best_shapes(problem: Projection, targets: Array, emphasis: Array) -> Descent:
    """For `targets` (m, n), weighted and of norm 1: theta = (ln beta, ln tau0) that leaves least of each, as (m, 2).

    `emphasis` (m, n) is that of `Projection.linearise`; the grid is searched without it.
    """
    grid = problem.grid()
    basis = problem.basis(grid)
    count = math.ceil(len(targets) / BLOCK)
    blocks = zip(np.array_split(targets, count), np.array_split(emphasis, count), strict=True)
    found = [_best_of_block(problem, grid, basis, *block) for block in blocks]
    return Descent(
        theta=np.concatenate([one.theta for one in found]),
        jacobian=np.concatenate([one.jacobian for one in found]),
        cost=np.concatenate([one.cost for one in found]),
        converged=np.concatenate([one.converged for one in found]),
    )


def _best_of_block(problem: Projection, grid: Array, basis: Array, targets: Array, emphasis: Array) -> Descent:
    alike = targets / emphasis
    squares = (alike**2).sum(-1)[:, None, None]
    errors = squares - (np.tensordot(alike, basis, axes=(1, -2)) ** 2).sum(-1)
    starts = [grid[_lowest(row)] for row in errors]
    owner = np.repeat(np.arange(len(targets)), [len(start) for start in starts])
    descent = descend(
        lambda theta, which: problem.linearise(theta, targets[owner[which]], emphasis[owner[which]]),
        np.concatenate(starts),
        problem.lower,
        problem.upper,
    )
    by_owner_then_cost = np.lexsort((descent.cost, owner))
    best = by_owner_then_cost[np.searchsorted(owner, np.arange(len(targets)))]
    return Descent(descent.theta[best], descent.jacobian[best], descent.cost[best], descent.converged[best])


def _lowest(errors: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the lowest place of each of the STARTS lowest tiles of a two-dimensional array.

    Local minima of the grid would be fewer, and miss: the errors form curved valleys much narrower than its spacing.
    """
    rows, columns = (-(-size // TILE) for size in errors.shape)
    padding = [(0, tiles * TILE - size) for tiles, size in zip((rows, columns), errors.shape, strict=True)]
    padded = np.pad(errors, padding, constant_values=np.inf)
    tiles = padded.reshape(rows, TILE, columns, TILE).swapaxes(1, 2).reshape(rows * columns, TILE * TILE)
    lowest = np.argsort(tiles.min(axis=1), kind="stable")[:STARTS]
    row, column = np.divmod(lowest, columns)
    below, beside = np.divmod(tiles[lowest].argmin(axis=1), TILE)
    return row * TILE + below, column * TILE + beside
