"""What a simulation is asked for, checked: every refusal says what was expected, what came, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ontogeny.dynamics.particles.model import KINDS, Head, Model
from ontogeny.dynamics.particles.seeds import START, generator
from ontogeny.dynamics.particles.sphere import caps, uniform
from ontogeny.errors import UsageError

Array = NDArray[np.float64]
OFF_SPHERE = 1e-6
GRID = 120


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


def checked_starts(
    start: str | ArrayLike,
    particles: int | None,
    dimension: int | None,
    samples: int | None,
    seed: int,
    cap_radius: float,
) -> tuple[Array, str]:
    """The starts (S, n, d) and their name. An array brings its own sizes, which must not contradict those given."""
    _whole("seed", seed, 0)
    if not isinstance(start, str):
        x = _given_starts(start)
        for name, asked, has in zip(
            ("samples", "particles", "dimension"), (samples, particles, dimension), x.shape, strict=True
        ):
            if asked is not None and asked != has:
                raise UsageError(f"start has {name} {has}, but {name}={asked} was asked for: leave {name} out")
        return x, "given"
    n = _whole("particles", 32 if particles is None else particles, 2)
    d = _whole("dimension", 2 if dimension is None else dimension, 2)
    number = _whole("samples", 1 if samples is None else samples, 1)
    sources = [generator(seed, START, sample) for sample in range(number)]
    if start == "uniform":
        return np.stack([uniform(rng, n, d) for rng in sources]), start
    name, _, count = start.partition(":")
    if name != "caps" or not count.isdecimal() or not 1 <= int(count) <= n:
        raise UsageError(f"expected start 'uniform', 'caps:K' with 1 <= K <= {n}, or an array, got {start!r}")
    if not 0 < cap_radius <= math.pi / 2:
        raise UsageError(f"expected cap_radius, an angle in radians, in (0, pi / 2], got {cap_radius}")
    return np.stack([caps(rng, n, d, int(count), cap_radius) for rng in sources]), f"{start} of radius {cap_radius:g}"


def checked_request(
    model: Model,
    starts: tuple[Array, str],
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
    """The request, of a model and starts that were checked."""
    betas = _numbers("beta", beta)
    if not ((betas > 0) & np.isfinite(betas)).all():
        raise UsageError(f"expected every beta to be positive and finite, got {_some(betas)}")
    if not (0 < horizon < math.inf):
        raise UsageError(f"expected a horizon that is positive and finite, got {horizon}")
    if not (0 <= noise < math.inf):
        raise UsageError(f"expected noise (sigma) that is not negative and finite, got {noise}")
    if not (0 < noise_step < math.inf):
        raise UsageError(f"expected noise_step, in model time, that is positive and finite, got {noise_step}")
    if not 1e-13 <= tolerance <= 1e-2:
        raise UsageError(f"expected a tolerance between 1e-13 and 1e-2, got {tolerance}: states have norm one")
    levels = _numbers("thresholds", thresholds)
    if not ((levels > -1) & (levels < 1 - 1e-12)).all() or len(np.unique(levels)) < len(levels):
        raise UsageError(f"expected different thresholds between -1 and 1, below it by 1e-12, got {_some(levels)}")
    marks = _grid(horizon) if times is None else _numbers("times", times)
    if not (np.diff(marks) > 0).all() or not (marks[0] >= 0 and marks[-1] <= horizon):
        wanted = f"ascending times from 0 to the horizon, {horizon:g}"
        raise UsageError(f"expected {wanted}, got {_some(marks)}: change the times or the horizon")
    return Request(
        model,
        betas,
        *starts,
        noise=float(noise),
        noise_step=float(noise_step),
        horizon=float(horizon),
        times=marks,
        thresholds=levels,
        seed=seed,
        tolerance=float(tolerance),
        step_budget=_whole("step_budget", step_budget, 1),
        keep_states=keep_states,
    )


def _grid(horizon: float) -> Array:
    """0, and from a thousandth of the horizon, or of one if that is less, evenly in the logarithm up to it."""
    grid = np.geomspace(min(1.0, horizon) / 1000, horizon, GRID)
    grid[-1] = horizon
    return np.concatenate([[0.0], grid])


def _given_starts(start: ArrayLike) -> Array:
    x = _floats("start", start)
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[1] < 2 or x.shape[2] < 2:
        raise UsageError(f"expected start of shape (samples, particles >= 2, dimension >= 2), got {x.shape}")
    norms = np.linalg.norm(x, axis=-1)
    off = ~(np.abs(norms - 1) <= OFF_SPHERE)
    if off.any():
        where = tuple(int(one) for one in np.argwhere(off)[0])
        raise UsageError(
            f"expected states of norm 1 to within {OFF_SPHERE:g}, got norm {norms[where]:.9g} at sample {where[0]}, "
            f"particle {where[1]}: divide each state by its norm"
        )
    return x / norms[..., None]


def _stack(name: str, matrix: ArrayLike, dimension: int) -> Array:
    stack = _floats(name, matrix)
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


def _numbers(name: str, values: ArrayLike) -> Array:
    numbers = np.atleast_1d(_floats(name, values))
    if numbers.ndim != 1 or not len(numbers):
        raise UsageError(f"expected {name} to be one or more numbers, got shape {np.shape(values)}")
    return numbers


def _floats(name: str, values: ArrayLike) -> Array:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"expected {name} to be numbers, got {values!r}") from error


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UsageError(f"expected {name} to be a whole number of at least {least}, got {value!r}")
    return int(value)


def _some(values: Array) -> str:
    text = ", ".join(f"{one:g}" for one in values[:6])
    return text + ", ..." if len(values) > 6 else text
