"""What is kept of trajectories: values at requested times, the first time of every count, and how each ended."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ontogeny.dynamics.particles.components import counts, linkage
from ontogeny.dynamics.particles.energy import clustered, energy
from ontogeny.dynamics.particles.events import joinings
from ontogeny.dynamics.particles.step import Step, pool_size

States = Callable[[Tensor, Tensor], Tensor]


class Record:
    """The record of B trajectories at `times` (T,), ascending, and at `thresholds` (H,).

    `energy` and `clustered` (B, T), `count` (B, T, H), `states` (B, T, n, d) where they are kept; NaN and -1 where
    nothing was recorded. `reached` (B, H, n - 1) is when there came to be no more than 1, 2, ... n - 1 clusters to the
    end, NaN where there are more, or never were more. `highest` (B, H) is the highest count, `peak` (B, H) when it was
    first reached, `last` (B, H) the count at the end of the last step, `end` (B,) its time, `settled` (B,) whether it
    ended in what stays for good.
    """

    def __init__(self, x: Tensor, beta: Tensor, times: Tensor, thresholds: Tensor, *, keep_states: bool) -> None:
        batch, n, d = x.shape
        self.beta, self.times, self.thresholds = beta[:, None, None], times, thresholds
        self.energy = x.new_full((batch, len(times)), torch.nan)
        self.clustered = self.energy.clone()
        self.count = torch.full((batch, len(times), len(thresholds)), -1)
        self.states = x.new_full((batch, len(times), n, d), torch.nan) if keep_states else None
        self.end = x.new_zeros(batch)
        self.reached = x.new_full((batch, len(thresholds), n - 1), torch.nan)
        self._most = pool_size(max(n, d))
        self.last = torch.cat([counts(linkage(some @ some.mT), thresholds) for some in x.split(self._most)])
        self.highest, self.peak = self.last.clone(), x.new_zeros(self.last.shape)
        self.settled = torch.zeros(batch, dtype=torch.bool)
        self._next = torch.zeros(batch, dtype=torch.long)
        self._due(torch.arange(batch), self.end, lambda which, _: x[which])

    def take(self, step: Step) -> None:
        """Record what falls within a step."""
        self._changes(step)
        rows = step.rows

        def inside(which: Tensor, place: Tensor) -> Tensor:
            start = step.start[which]
            return step.at(which, (self.times[place] - start) / (step.end[which] - start))

        self._due(rows, step.end, inside)
        self.end[rows] = step.end
        self.settled[rows] = step.settled
        if step.settled.any():
            for_good = step.settled.nonzero()[:, 0]
            never = torch.full_like(self.end[for_good], torch.inf)
            self._due(rows[for_good], never, lambda which, _: step.x[for_good[which]])

    def done(self) -> int:
        """How many of the B T values are recorded."""
        return int(self._next.sum())

    def _due(self, rows: Tensor, until: Tensor, states: States) -> None:
        """Record trajectories `rows` (m,) at all times up to `until` (m,); `states(which, place)` are those there."""
        first, after = self._next[rows], torch.searchsorted(self.times, until, right=True)
        number = after - first
        which = torch.arange(len(rows)).repeat_interleave(number)
        place = torch.arange(len(which)) - (number.cumsum(0) - number - first).repeat_interleave(number)
        for some, there in zip(which.split(self._most), place.split(self._most), strict=True):
            x, row = states(some, there), rows[some]
            cosines = x @ x.mT
            self.energy[row, there] = energy(cosines, self.beta[row])
            self.clustered[row, there] = clustered(cosines)
            self.count[row, there] = counts(linkage(cosines), self.thresholds)
            if self.states is not None:
                self.states[row, there] = x
        self._next[rows] = after

    def _changes(self, step: Step) -> None:
        """Locate the mergers within a step, and forget those that it undoes."""
        rows, n = step.rows, step.x.shape[1]
        before, now = self.last[rows], counts(linkage(step.x @ step.x.mT), self.thresholds)
        self.last[rows] = now
        fewer, more = (now < before).nonzero(as_tuple=True), (now > before).nonzero(as_tuple=True)
        if len(fewer[0]):
            which, level = fewer
            share = joinings(step, which, self.thresholds[level])
            left = n - 1 - torch.arange(n - 1)  # the count that each joining leaves
            event, joining = ((left < before[fewer][:, None]) & (left >= now[fewer][:, None])).nonzero(as_tuple=True)
            self.reached[rows[which[event]], level[event], left[joining] - 1] = _time(
                step, which[event], share[event, joining]
            )
        if len(more[0]):
            which, level = more
            undone = torch.arange(1, n) < now[more][:, None]
            self.reached[rows[which], level] = self.reached[rows[which], level].masked_fill(undone, torch.nan)
            self._new_highest(step, which, level, now[more])

    def _new_highest(self, step: Step, which: Tensor, level: Tensor, now: Tensor) -> None:
        """Note the trajectories `which` whose count `now` (k,) at a level is higher than ever, and since when."""
        new = now > self.highest[step.rows[which], level]
        if new.any():
            which, level, now = which[new], level[new], now[new]
            back = step.backwards()
            share = joinings(back, which, self.thresholds[level]).clamp(
                max=1
            )  # the start's rounding may hide a joining
            first = share.gather(1, step.x.shape[1] - now[:, None])[:, 0]  # the first to leave fewer
            self.highest[step.rows[which], level] = now
            self.peak[step.rows[which], level] = _time(back, which, first)


def _time(step: Step, which: Tensor, share: Tensor) -> Tensor:
    """When `share` (k,) of the step of its trajectories `which` (k,) was done, (k,)."""
    return step.start[which] + share * (step.end[which] - step.start[which])
