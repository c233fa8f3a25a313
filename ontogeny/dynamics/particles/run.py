"""Running a request: its trajectories, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ontogeny.dynamics.particles.adaptive import adaptive
from ontogeny.dynamics.particles.events import plateaus
from ontogeny.dynamics.particles.noise import noisy
from ontogeny.dynamics.particles.record import Record
from ontogeny.dynamics.particles.request import Request
from ontogeny.dynamics.particles.seeds import NOISE, generator
from ontogeny.dynamics.particles.step import Step

Progress = Callable[[int, int], None]
Variables = dict[str, np.ndarray]

COLLAPSED, HORIZON, STEP_BUDGET = "collapsed", "horizon", "step budget"


def run(request: Request, on_progress: Progress | None = None) -> Variables:
    """Every variable of the dataset by its name, over (trajectory, ...): all samples of the first beta, then the next.

    `on_progress(done, total)` is told how many of the values at recorded times there are, after every step.
    """
    betas, samples = len(request.beta), len(request.starts)
    x = torch.from_numpy(request.starts).repeat(betas, 1, 1)
    beta = torch.from_numpy(request.beta).repeat_interleave(samples)
    tries = torch.zeros(betas * samples, dtype=torch.long)
    times, thresholds = torch.from_numpy(request.times), torch.from_numpy(request.thresholds)
    with _one_thread():
        record = Record(x, beta, times, thresholds, keep_states=request.keep_states)
        for step in _steps(request, x, beta, tries):
            record.take(step)
            if on_progress is not None:
                on_progress(record.done(), len(x) * len(times))
    return _variables(request, record, tries)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside: arrays that fit a core's cache gain little from more, and lose much where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _steps(request: Request, x: Tensor, beta: Tensor, tries: Tensor) -> Iterator[Step]:
    """The steps of the trajectories from states `x` (B, n, d) with `beta` (B,)."""
    if not request.noise:
        return adaptive(
            request.model,
            beta,
            x,
            horizon=request.horizon,
            tolerance=request.tolerance,
            budget=request.step_budget,
            tries=tries,
        )
    samples = len(request.starts)
    return noisy(
        request.model,
        beta,
        x,
        lambda sample: generator(request.seed, NOISE, sample),
        torch.arange(len(x)) % samples,
        sigma=request.noise,
        times=request.times,
        horizon=request.horizon,
        longest=request.noise_step,
        budget=request.step_budget,
        tries=tries,
    )


def _variables(request: Request, record: Record, tries: Tensor) -> Variables:
    """The variables, each (B, ...) of B trajectories, of the record and of the steps tried, `tries` (B,)."""
    count = record.count.numpy().astype(np.float64)
    count[count < 0] = np.nan
    merger = np.sort(record.reached.numpy(), axis=-1)  # NaN comes last
    start, end, held = plateaus(record.highest.numpy(), record.peak.numpy(), merger)
    whole = (record.settled | (record.end >= request.horizon)).numpy()
    one = record.last.numpy()[:, request.thresholds.argmax()] == 1
    found = {
        "energy": record.energy.numpy(),
        "cluster_count": count,
        "clustered": record.clustered.numpy(),
        "merger_time": merger,
        "plateau_start": start,
        "plateau_end": end,
        "plateau_count": held,
        "verdict": np.where(whole, np.where(one, COLLAPSED, HORIZON), STEP_BUDGET).astype(object),
        "end_time": record.end.numpy(),
        "steps": tries.numpy(),
    }
    return found if record.states is None else {**found, "state": record.states.numpy()}
