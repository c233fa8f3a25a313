"""Integration in steps of adapted size: plateaus that last e^beta are crossed in few steps, mergers in small ones.

Two things make that possible. Particles at one place are left out of one another's pull (`Model.velocity`), so that
steps see pulls far below the rounding of a cluster's own. And particles that have come within 1e-7 are tied, where the
flow surely draws together whatever is there (`contracts`): they move as one from then on. Untied they would contract
towards one another at a rate of one for as long as the plateau lasts, and an explicit step cannot be longer than a few
times that. Tied ones are no further from where they would be than from their centre then, and what others feel changes
by the square of that. On a saddle, where two approach along one tangent and part along another, they stay as they are.

The flow is judged where and when particles are tied: a group that later comes to a saddle does not part, though untied
what was left of 1e-7 would grow there. Equal particles are tied anywhere. Under a causal mask or noise velocities
differ at one place, and with V other than the identity particles may part again: nothing is tied there, and a plateau
may take more steps than there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ontogeny.dynamics.particles.components import labels
from ontogeny.dynamics.particles.contraction import contracts
from ontogeny.dynamics.particles.dormand_prince import ORDER, Trial, attempt
from ontogeny.dynamics.particles.model import Model
from ontogeny.dynamics.particles.sphere import normalised
from ontogeny.dynamics.particles.step import Step, pool_size

TIE = 1e-7
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
REFILL = 0.75
MEMORY = 0.04  # the exponent of the last error in the controller, which calms steps that stability limits


@dataclass(frozen=True)
class Moving:
    """Trajectories on their way: one row each, of every field.

    `group` (m, n) is the least index that a particle is tied to; `h` (m,) the size to try next, `last_error` (m,) that
    of the last step, over the tolerance; `fresh` (m,) whether the last try succeeded.
    """

    rows: Tensor
    beta: Tensor
    t: Tensor
    x: Tensor
    velocity: Tensor
    group: Tensor
    h: Tensor
    last_error: Tensor
    fresh: Tensor

    def at(self, which: Tensor) -> Moving:
        """The trajectories `which`."""
        return Moving(**{name: value[which] for name, value in vars(self).items()})

    def with_(self, more: Moving) -> Moving:
        """These trajectories, and `more`."""
        return Moving(**{name: torch.cat([value, getattr(more, name)]) for name, value in vars(self).items()})

    @property
    def together(self) -> Tensor:
        """Which particles are tied to which, (m, n, n)."""
        return self.group[:, :, None] == self.group[:, None, :]

    @property
    def apart(self) -> Tensor:
        """1.0 for particles that are not tied to one another, (m, n, n), 0.0 for those that are."""
        return (~self.together).to(self.x.dtype)


def adaptive(
    model: Model,
    beta: Tensor,
    x: Tensor,
    *,
    horizon: float,
    tolerance: float,
    budget: int,
    tries: Tensor,
    tying: bool = True,
) -> Iterator[Step]:
    """The steps of trajectories from states `x` (B, n, d) with `beta` (B,), until the horizon or until settled.

    As many as fit the cache are on their way at a time; others begin as those end. A trajectory is settled once all of
    its particles are tied. The estimated local error of a step is at most `tolerance` in every coordinate. `tries` (B,)
    is counted up by every step tried, and a trajectory stops after `budget` of them. `tying` can be turned off, to see
    what it changes.
    """
    tying = tying and model.values_are_identity and not model.causal
    rows = torch.arange(len(x))
    size = pool_size(x.shape[1])
    moving = _start(model, beta, x, rows[:0], horizon, tolerance)
    while len(rows) or len(moving.rows):
        if len(rows) and len(moving.rows) <= size * REFILL:
            free = size - len(moving.rows)
            moving = moving.with_(_start(model, beta, x, rows[:free], horizon, tolerance))
            rows = rows[free:]
            if tying:
                moving = _tied(model, moving)
        h = torch.minimum(moving.h, horizon - moving.t)
        velocity = partial(model.velocity, beta=moving.beta, apart=moving.apart)
        trial = attempt(velocity, moving.x, moving.velocity, h[:, None, None])
        tries[moving.rows] += 1
        accepted = trial.error <= tolerance
        start = moving.t
        moving = _after(moving, trial, h, accepted, horizon, tolerance)
        if tying:
            moving = _tied(model, moving)
        settled = (moving.group == 0).all(-1)
        done = accepted.nonzero()[:, 0]
        if len(done):
            inside = _Accepted(trial, done)
            yield Step(moving.rows[done], start[done], moving.t[done], moving.x[done], inside, settled[done])
        going = ~settled & (moving.t < horizon) & (tries[moving.rows] < budget)
        if not going.all():
            moving = moving.at(going)


@dataclass(frozen=True)
class _Accepted:
    """The interpolant of those trajectories of a trial that were accepted."""

    trial: Trial
    done: Tensor

    def path(self, which: Tensor, particle: Tensor) -> Tensor:
        return self.trial.path(self.done[which], particle)


def _start(model: Model, beta: Tensor, x: Tensor, rows: Tensor, horizon: float, tolerance: float) -> Moving:
    """The trajectories `rows` at time 0. Their first step is one over which a state would move by tolerance^(1 / 5)."""
    beta, x = beta[rows, None, None], x[rows]
    batch, n = x.shape[:2]
    velocity = model.velocity(x, beta)
    speed = velocity.abs().amax((-2, -1))
    return Moving(
        rows=rows,
        beta=beta,
        t=x.new_zeros(batch),
        x=x,
        velocity=velocity,
        group=torch.arange(n).repeat(batch, 1),
        h=(tolerance ** (1 / ORDER) / speed).clamp(max=horizon),
        last_error=x.new_ones(batch),
        fresh=torch.ones(batch, dtype=torch.bool),
    )


def _after(moving: Moving, trial: Trial, h: Tensor, accepted: Tensor, horizon: float, tolerance: float) -> Moving:
    """The trajectories after a trial: those that were accepted have moved, and every step size is adapted."""
    error = (trial.error / tolerance).nan_to_num(nan=math.inf, posinf=math.inf)
    factor = SAFETY * error.clamp(min=1e-12) ** -(1 / ORDER - 0.75 * MEMORY) * moving.last_error**MEMORY
    most = torch.where(accepted & moving.fresh, GROW, 1.0)
    ends = h >= horizon - moving.t
    moved = accepted[:, None, None]
    return replace(
        moving,
        t=torch.where(accepted, torch.where(ends, horizon, moving.t + h), moving.t),
        x=torch.where(moved, trial.x, moving.x),
        velocity=torch.where(moved, trial.k[-1], moving.velocity),
        h=h * factor.clamp(min=SHRINK).minimum(most),
        last_error=torch.where(accepted, error.clamp(min=1e-4), moving.last_error),
        fresh=accepted,
    )


def _tied(model: Model, moving: Moving) -> Moving:
    """The trajectories with those particles tied that have come within 1e-7 where the flow contracts, or are equal."""
    close = (moving.x @ moving.x.mT > 1 - TIE**2 / 2) & ~moving.together
    near = close.flatten(1).any(-1).nonzero()[:, 0]
    if not len(near):
        return _held(moving)
    safe = contracts(model, moving.x[near], moving.beta[near])
    close[near] &= (safe[:, :, None] & safe[:, None, :]) | _equal(moving.x[near], close[near])
    found = close.flatten(1).any(-1).nonzero()[:, 0]
    if not len(found):
        return _held(moving)
    some = moving.at(found)
    group = labels(close[found] | some.together)
    member = (group[:, :, None] == group[:, None, :]).to(some.x.dtype)
    x = normalised(member @ some.x).gather(1, group[..., None].expand_as(some.x))
    some = replace(some, x=x, group=group)
    velocity = model.velocity(x, some.beta, some.apart)
    state, speed, groups = moving.x.clone(), moving.velocity.clone(), moving.group.clone()
    state[found], speed[found], groups[found] = x, velocity, group
    return _held(replace(moving, x=state, velocity=speed, group=groups))


def _equal(x: Tensor, close: Tensor) -> Tensor:
    """Which of the `close` particles (m, n, n) have equal states, of `x` (m, n, d)."""
    which, i, j = close.nonzero(as_tuple=True)
    equal = torch.zeros_like(close)
    equal[which, i, j] = (x[which, i] == x[which, j]).all(-1)
    return equal


def _held(moving: Moving) -> Moving:
    """The trajectories with tied particles at exactly one place, whatever rounding did."""
    return replace(moving, x=moving.x.gather(1, moving.group[..., None].expand_as(moving.x)))
