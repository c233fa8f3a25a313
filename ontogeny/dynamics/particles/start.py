"""Where particles start: drawn or given."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ontogeny.dynamics.particles.checks import Array, floats, number, whole
from ontogeny.dynamics.particles.seeds import START, generator
from ontogeny.dynamics.particles.sphere import caps, centres, smallest_angle, uniform
from ontogeny.errors import UsageError

OFF_SPHERE = 1e-6


@dataclass(frozen=True)
class Start:
    """States of `shape` (samples, particles, dimension), not drawn yet: uniform, in `caps` of `radius`, or `given`."""

    shape: tuple[int, int, int]
    seed: int
    caps: int = 0
    radius: float = 0.0
    given: Array | None = None

    @property
    def name(self) -> str:
        """What the dataset calls it."""
        if self.given is not None:
            return "given"
        return f"caps:{self.caps} of radius {self.radius:g}" if self.caps else "uniform"

    def states(self) -> Array:
        """The states (samples, particles, dimension). Raises UsageError for caps that would overlap."""
        if self.given is not None:
            return self.given
        samples, n, d = self.shape
        sources = [generator(self.seed, START, sample) for sample in range(samples)]
        if not self.caps:
            return np.stack([uniform(rng, n, d) for rng in sources])
        middles = [centres(rng, self.caps, d) for rng in sources]
        apart = min(map(smallest_angle, middles))
        if apart < 2 * self.radius:
            raise UsageError(
                f"expected caps that do not overlap, got {self.name}: the best centres found lie {apart:.3g} apart "
                f"(radians), less than two radii; take fewer caps, a cap radius of at most {_below(apart / 2)}, or "
                "more dimensions"
            )
        return np.stack([caps(rng, n, one, self.radius) for rng, one in zip(sources, middles, strict=True)])


def checked_start(
    start: str | ArrayLike,
    particles: int | None,
    dimension: int | None,
    samples: int | None,
    seed: int,
    cap_radius: float,
) -> Start:
    """The start that was asked for. An array brings its own sizes, which must not contradict those given."""
    whole("seed", seed, 0)
    if not isinstance(start, str):
        x = _given(start)
        for name, asked, has in zip(
            ("samples", "particles", "dimension"), (samples, particles, dimension), x.shape, strict=True
        ):
            if asked is not None and asked != has:
                raise UsageError(f"start has {name} {has}, but {name}={asked} was asked for: leave {name} out")
        return Start((x.shape[0], x.shape[1], x.shape[2]), seed, given=x)
    n = whole("particles", 32 if particles is None else particles, 2)
    d = whole("dimension", 2 if dimension is None else dimension, 2)
    shape = whole("samples", 1 if samples is None else samples, 1), n, d
    if start == "uniform":
        return Start(shape, seed)
    name, _, count = start.partition(":")
    if name != "caps" or not count.isdecimal() or not 1 <= int(count) <= n:
        raise UsageError(f"expected start 'uniform', 'caps:K' with 1 <= K <= {n}, or an array, got {start!r}")
    if not 0 < number("cap_radius", cap_radius) <= math.pi / 2:
        raise UsageError(f"expected cap_radius, an angle in radians, in (0, pi / 2], got {cap_radius}")
    return Start(shape, seed, int(count), float(cap_radius))


def _below(angle: float) -> str:
    """`angle` in two digits, rounded down."""
    unit = 10.0 ** (math.floor(math.log10(angle)) - 1) if angle else 1.0
    return f"{math.floor(angle / unit) * unit:.2g}"


def _given(start: ArrayLike) -> Array:
    x = floats("start", start)
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[1] < 2 or x.shape[2] < 2:
        wanted = "(samples, particles >= 2, dimension >= 2), or without samples for one"
        raise UsageError(f"expected start of shape {wanted}, got {np.shape(start)}")
    norms = np.linalg.norm(x, axis=-1)
    off = ~(np.abs(norms - 1) <= OFF_SPHERE)
    if off.any():
        where = tuple(int(one) for one in np.argwhere(off)[0])
        raise UsageError(
            f"expected states of norm 1 to within {OFF_SPHERE:g}, got norm {norms[where]:.9g} at sample {where[0]}, "
            f"particle {where[1]}: divide each state by its norm"
        )
    return x / norms[..., None]
