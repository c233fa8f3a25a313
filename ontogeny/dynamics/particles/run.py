"""Running a request: trajectories in chunks that fit the cache, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ontogeny.dynamics.particles.adaptive import adaptive
from ontogeny.dynamics.particles.events import plateaus
from ontogeny.dynamics.particles.noise import noisy, time_grid
from ontogeny.dynamics.particles.record import Record
from ontogeny.dynamics.particles.request import Request, generator
from ontogeny.dynamics.particles.step import Step

Progress = Callable[[int, int], None]
Variables = dict[str, np.ndarray]

CHUNK_BYTES = 2 << 20  # of one array (trajectories, n, n)
COLLAPSED, HORIZON, STEP_BUDGET = "collapsed", "horizon", "step budget"


def run(request: Request, on_progress: Progress | None = None) -> Variables:
    """Every variable of the dataset by its name, over (trajectory, ...): all samples of the first beta, then the next.

    `on_progress(done, total)` is told how many of the values at recorded times there are, after every step.
    """
    samples, n, _ = request.starts.shape
    trajectories = np.arange(len(request.beta) * samples)
    size = max(1, CHUNK_BYTES // (8 * n * n))
    parts = []
    for chunk in np.split(trajectories, np.arange(size, len(trajectories), size)):
        sample = chunk % samples
        x = torch.from_numpy(request.starts[sample])
        beta = torch.from_numpy(request.beta[chunk // samples])
        tries = torch.zeros(len(chunk), dtype=torch.long)
        times, thresholds = torch.from_numpy(request.times), torch.from_numpy(request.thresholds)
        record = Record(x, beta, times, thresholds, keep_states=request.keep_states)
        for step in _steps(request, x, beta, sample, tries):
            record.take(step)
            if on_progress is not None:
                on_progress(int(chunk[0]) * len(times) + record.done(), len(trajectories) * len(times))
        parts.append(_variables(request, record, tries))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _steps(request: Request, x: Tensor, beta: Tensor, sample: np.ndarray, tries: Tensor) -> Iterator[Step]:
    """The steps of a chunk's trajectories, which start from `x` (B, n, d) and belong to `sample` (B,)."""
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
    drawn, source = np.unique(sample, return_inverse=True)
    return noisy(
        request.model,
        beta,
        x,
        [generator(request.seed, 1, int(one)) for one in drawn],
        torch.from_numpy(source),
        sigma=request.noise,
        grid=time_grid(request.times, request.horizon, request.noise_step),
        budget=request.step_budget,
        tries=tries,
    )


def _variables(request: Request, record: Record, tries: Tensor) -> Variables:
    count = record.count.numpy().astype(np.float64)
    count[count < 0] = np.nan
    merger = np.sort(record.reached.numpy(), axis=-1)  # NaN comes last
    start, end, held = plateaus(record.first.numpy(), merger, record.reached.shape[-1] + 1)
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
        "verdict": np.where(whole, np.where(one, COLLAPSED, HORIZON), STEP_BUDGET),
        "end_time": record.end.numpy(),
        "steps": tries.numpy(),
    }
    return found if record.states is None else {**found, "state": record.states.numpy()}
