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
    nothing was recorded. `reached` (B, H, n - 1) is when there were first no more than 1, 2, ... n - 1 clusters, NaN
    where there never were or where there were none more at time 0. `first` and `last` (B, H) are the counts at time 0
    and at the end of the last step, `end` (B,) its time, `settled` (B,) whether it ended in what stays for good.
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
        self.first = torch.cat([counts(linkage(some @ some.mT), thresholds) for some in x.split(self._most)])
        self.last, self._lowest = self.first.clone(), self.first.clone()
        self.settled = torch.zeros(batch, dtype=torch.bool)
        self._next = torch.zeros(batch, dtype=torch.long)
        self._due(torch.arange(batch), self.end, lambda which, _: x[which])

    def take(self, step: Step) -> None:
        """Record what falls within a step."""
        self._mergers(step)
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

    def _mergers(self, step: Step) -> None:
        """Locate the mergers within a step: where the count is lower at its end than ever before."""
        rows, n = step.rows, step.x.shape[1]
        self.last[rows] = now = counts(linkage(step.x @ step.x.mT), self.thresholds)
        lowest = self._lowest[rows]
        self._lowest[rows] = torch.minimum(lowest, now)
        which, level = (now < lowest).nonzero(as_tuple=True)
        if not len(which):
            return
        share = joinings(step, which, self.thresholds[level]).clamp(max=1)
        new = n - 1 - torch.arange(n - 1)  # the count that each joining leaves
        event, joining = ((new < lowest[which, level, None]) & (new >= now[which, level, None])).nonzero(as_tuple=True)
        which, level = which[event], level[event]
        start, end = step.start[which], step.end[which]
        self.reached[rows[which], level, new[joining] - 1] = start + share[event, joining] * (end - start)
