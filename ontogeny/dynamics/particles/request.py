"""What a simulation is asked for, checked: every refusal says what was expected, what came, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from ontogeny.dynamics.particles.checks import Array, floats, number, numbers, some, whole
from ontogeny.dynamics.particles.memory import require_memory
from ontogeny.dynamics.particles.model import KINDS, SELF_ATTENTION, UNNORMALISED, Head, Model
from ontogeny.dynamics.particles.start import Start
from ontogeny.errors import UsageError

GRID = 120
HIGHEST_BETA = 1e6  # the rounding of a cosine, 2e-16, still changes exp(beta cosine) by no more than 2e-10 of itself


@dataclass(frozen=True)
class Request:
    """A simulation of `model` for every beta (B,) from every start (S, n, d), with what to record.

    `start` is the name of the starts. See `ontogeny.simulate` for the rest.
    """

    model: Model
    beta: Array
    starts: Array
    start: str
    noise: float
    noise_step: float
    horizon: float
    times: Array
    thresholds: Array
    seed: int
    tolerance: float
    step_budget: int
    keep_states: bool


def checked_model(kind: str, matrices: dict[str, ArrayLike | None], causal: bool, dimension: int) -> Model:
    """The model of `kind` with `matrices` Q, K, V: (d, d), (heads, d, d), or None for the identity."""
    if isinstance(kind, str) and kind.lower() in (SELF_ATTENTION, UNNORMALISED):
        kind = kind.lower()
    if kind not in KINDS:
        raise UsageError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
    given = {name: _stack(name, matrix, dimension) for name, matrix in matrices.items() if matrix is not None}
    sizes = {name: len(stack) for name, stack in given.items()}
    if len(set(sizes.values())) > 1:
        heads = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"expected as many matrices for every name, one for each head, got {heads}")
    number = max(sizes.values(), default=1)
    matrices_of = [{name: _matrix(stack[head]) for name, stack in given.items()} for head in range(number)]
    return Model(kind, tuple(Head(**one) for one in matrices_of), causal)


def checked_request(
    model: Model,
    start: Start,
    *,
    beta: ArrayLike,
    noise: float,
    noise_step: float,
    horizon: float,
    times: ArrayLike | None,
    thresholds: Sequence[float],
    seed: int,
    tolerance: float,
    step_budget: int,
    keep_states: bool,
) -> Request:
    """The request, of a model and a start that were checked."""
    betas = numbers("beta", beta)
    if not ((betas > 0) & np.isfinite(betas)).all():
        raise UsageError(f"expected every beta to be positive and finite, got {some(betas)}")
    if betas.max() > HIGHEST_BETA:
        raise UsageError(
            f"expected every beta to be at most {HIGHEST_BETA:,.0f}, got {some(betas[betas > HIGHEST_BETA])}"
        )
    if not (0 < number("horizon", horizon) < math.inf):
        raise UsageError(f"expected a horizon that is positive and finite, got {horizon}")
    if not (0 <= number("noise", noise) < math.inf):
        raise UsageError(f"expected noise (sigma) that is not negative and finite, got {noise}")
    if not (0 < number("noise_step", noise_step) < math.inf):
        raise UsageError(f"expected noise_step, in model time, that is positive and finite, got {noise_step}")
    if not 1e-13 <= number("tolerance", tolerance) <= 1e-2:
        raise UsageError(f"expected a tolerance between 1e-13 and 1e-2, got {tolerance}: states have norm one")
    levels = numbers("thresholds", thresholds)
    if not ((levels > -1) & (levels < 1 - 1e-12)).all() or len(np.unique(levels)) < len(levels):
        raise UsageError(f"expected different thresholds between -1 and 1, below it by 1e-12, got {some(levels)}")
    marks = _grid(horizon) if times is None else numbers("times", times)
    if not (np.diff(marks) > 0).all() or not (marks[0] >= 0 and marks[-1] <= horizon):
        wanted = f"ascending times from 0 to the horizon, {horizon:g}"
        raise UsageError(f"expected {wanted}, got {some(marks)}: change the times or the horizon")
    require_memory(start.shape, len(betas), len(marks), len(levels), keep_states=keep_states)
    return Request(
        model,
        betas,
        start.states(),
        start.name,
        noise=float(noise),
        noise_step=float(noise_step),
        horizon=float(horizon),
        times=marks,
        thresholds=levels,
        seed=seed,
        tolerance=float(tolerance),
        step_budget=whole("step_budget", step_budget, 1),
        keep_states=keep_states,
    )


def _grid(horizon: float) -> Array:
    """0, and from a thousandth of the horizon, or of one if that is less, evenly in the logarithm up to it."""
    grid = np.geomspace(min(1.0, horizon) / 1000, horizon, GRID)
    grid[-1] = horizon
    return np.concatenate([[0.0], grid])


def _stack(name: str, matrix: ArrayLike, dimension: int) -> Array:
    stack = floats(name, matrix)
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or stack.shape[1:] != (dimension, dimension) or not len(stack):
        shapes = f"({dimension}, {dimension}) or (heads, {dimension}, {dimension})"
        raise UsageError(f"expected {name} of shape {shapes}, got {np.shape(matrix)}")
    if not np.isfinite(stack).all():
        raise UsageError(f"expected {name} with finite entries, got NaN or infinity")
    return stack


def _matrix(matrix: Array) -> torch.Tensor | None:
    """The matrix, None for the identity."""
    return None if np.array_equal(matrix, np.eye(len(matrix))) else torch.from_numpy(matrix)
