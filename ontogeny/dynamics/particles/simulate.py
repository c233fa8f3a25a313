"""Simulating the self-attention model: the public function, and the dataset that it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ontogeny.dynamics.particles.model import SELF_ATTENTION
from ontogeny.dynamics.particles.request import Request, checked_model, checked_request
from ontogeny.dynamics.particles.run import Variables, run
from ontogeny.dynamics.particles.start import checked_start
from ontogeny.kernels.mechanisms import MECHANISMS
from ontogeny.version import __version__

MODEL, METASTABILITY = "arXiv:2312.10794", "arXiv:2410.06833"
# Dimensions after (beta, sample), what it is, units, source.
VARIABLES = {
    "state": ("time particle axis", "state on the sphere", "1", MODEL),
    "energy": ("time", "E_beta, the interaction energy", "1", MODEL),
    "cluster_count": ("time threshold", "connected components of <x_i, x_j> > threshold", "clusters", METASTABILITY),
    "clustered": ("time", "share of pairs i < j with <x_i, x_j> > 0.999", "1", MODEL),
    "merger_time": ("threshold merger", "when there came to be fewer clusters for good", "t", METASTABILITY),
    "plateau_start": ("threshold plateau", "merger that began it, or when the count peaked", "t", METASTABILITY),
    "plateau_end": ("threshold plateau", "merger that ended the plateau; NaN: it was not seen", "t", METASTABILITY),
    "plateau_count": ("threshold plateau", "clusters in the plateau; -1: no plateau", "clusters", METASTABILITY),
    "verdict": ("", "how the trajectory ended: collapsed, horizon, or step budget", "1", METASTABILITY),
    "end_time": ("", "the time up to which it was integrated", "t", METASTABILITY),
    "steps": ("", "steps tried, those rejected included", "steps", METASTABILITY),
}


def simulate(
    particles: int | None = None,
    dimension: int | None = None,
    beta: ArrayLike = (1.0,),
    *,
    kind: str = SELF_ATTENTION,
    Q: ArrayLike | None = None,
    K: ArrayLike | None = None,
    V: ArrayLike | None = None,
    causal: bool = False,
    noise: float = 0.0,
    noise_step: float = 0.01,
    samples: int | None = None,
    horizon: float = 30.0,
    times: ArrayLike | None = None,
    thresholds: Sequence[float] = (0.9, 0.99, 0.999),
    start: str | ArrayLike = "uniform",
    cap_radius: float = 0.1,
    seed: int = 0,
    tolerance: float = 1e-8,
    step_budget: int = 20_000,
    keep_states: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Particles under self-attention on the sphere, for every `beta` from the same starts (arXiv 2312.10794).

    `kind` is "sa" (softmax), "usa" (unnormalised: weights exp(beta (<x_i, x_j> - 1)) / n), either in capitals too, or
    the name of a mechanism. `beta` is at most 1e6.
    `Q`, `K`, `V` are (d, d) or (heads, d, d), the identity where None; heads add. `causal`: particle i sees particles
    j <= i. `noise` is sigma of a Brownian motion on the sphere, in steps of `noise_step`.

    `particles` (32), `dimension` (2) and `samples` (1) are those of `start`: "uniform", "caps:K" (K separated caps of
    angular radius `cap_radius` in radians; refused where they would overlap), or an array (samples, particles,
    dimension) of states of norm 1; (particles, dimension) is one sample.

    Time is that of each kind's own equation; for "usa" that is the one with the shifted exponent. It is integrated to
    `horizon` in steps whose estimated local error in a coordinate is at most `tolerance` (errors of many steps may add
    up or grow), and values are recorded at `times`, by default 0 and 120 that are even in the logarithm. A trajectory
    stops after `step_budget` steps: its verdict says so, and values at times after `end_time` are NaN. It also stops
    when all particles are at one place, where with V = I they remain; later values are those of that place.

    Over (beta, sample): `energy` (time), `cluster_count` (time, threshold), `clustered` (time), `merger_time`
    (threshold, merger), `plateau_start`, `plateau_end`, `plateau_count` (threshold, plateau), `verdict` ("collapsed":
    one cluster at the highest threshold in the end; "horizon"; "step budget"), `end_time`, `steps`, and with
    `keep_states` also `state` (time, particle, axis). A merger is the moment from which on there are never again as
    many clusters, a plateau lies between two mergers (`ontogeny.dynamics.particles.events`); those of a noisy run are
    located within its steps along the chord.

    `on_progress(done, total)` is told after every step how many of the values are recorded.

    Raises UsageError for what cannot be simulated: it says what was expected, what came, and what to do.
    """
    begin = checked_start(start, particles, dimension, samples, seed, cap_radius)
    request = checked_request(
        checked_model(kind, {"Q": Q, "K": K, "V": V}, causal, begin.shape[-1]),
        begin,
        beta=beta,
        noise=noise,
        noise_step=noise_step,
        horizon=horizon,
        times=times,
        thresholds=thresholds,
        seed=seed,
        tolerance=tolerance,
        step_budget=step_budget,
        keep_states=keep_states,
    )
    return _dataset(request, run(request, on_progress))


def _dataset(request: Request, found: Variables) -> xr.Dataset:
    samples, n, _ = request.starts.shape
    variables = {}
    for name, (dims, long_name, units, source) in VARIABLES.items():
        if name in found:
            values = found[name].reshape(len(request.beta), samples, *found[name].shape[1:])
            attributes = {"long_name": long_name, "units": units, "source": source}
            variables[name] = (("beta", "sample", *dims.split()), values, attributes)
    coordinates: dict[str, Any] = {
        "beta": ("beta", request.beta, {"long_name": "inverse temperature", "units": "1"}),
        "sample": np.arange(samples),
        "time": ("time", request.times, {"long_name": "model time", "units": "t"}),
        "threshold": ("threshold", request.thresholds, {"long_name": "<x_i, x_j> above it joins", "units": "1"}),
        "merger": np.arange(n - 1),
        "plateau": np.arange(n - 1),
    }
    return xr.Dataset(variables, coordinates, _attributes(request))


def _attributes(request: Request) -> dict[str, Any]:
    model = request.model
    named = {"mechanism": model.kind} if model.kind in MECHANISMS else {}
    return {
        "kind": model.kind,
        **named,
        "particles": request.starts.shape[1],
        "dimension": request.starts.shape[2],
        "heads": len(model.heads),
        "identity": ", ".join(name for name in "QKV" if all(getattr(head, name) is None for head in model.heads)),
        "causal": int(model.causal),
        "noise": request.noise,
        "noise_step": request.noise_step,
        "horizon": request.horizon,
        "start": request.start,
        "seed": request.seed,
        "tolerance": request.tolerance,
        "step_budget": request.step_budget,
        "source": f"{MODEL}, {METASTABILITY}",
        "ontogeny_version": __version__,
    }
