"""What the self-attention model says of states that all form one angle, and how a network's mean cosine compares.

Tokens of random text in high dimension are nearly equiangular: <x_i, x_j> = rho for all i != j. With Q = K = V = I and
no mask the flow keeps them so (arXiv 2312.10794), and rho obeys one equation. With w the attention on any one other
token, x_j has the inner product a rho + w (1 + (n - 2) rho) with what token i is moved by, a being the attention on
itself; less the part along x_i, (a + (n - 1) w rho) rho, and twice, since both move:

    d rho / dt = 2 w (1 - rho) ((n - 1) rho + 1)
    SA    w = 1 / (e^(beta (1 - rho)) + n - 1)
    USA   w = e^(-beta (1 - rho)) / n            in the shifted time
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp

from ontogeny.dataset import HasDataset
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting.scan import CARRIED

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

SOURCE = "arXiv:2312.10794"
Flow = Literal["sa", "usa"]
NEEDS = ("effective_beta", "mean_cosine")
EXPLORATORY = (
    "a yardstick, not a model of the network: V = I, no MLP, no positions, unit time a block, one beta a block (mean "
    "over heads), states equiangular, every token seeing every other (in a causal model it sees those before it alone)"
)
RTOL, ATOL = 1e-11, 1e-13
LEAST_STEPS = 3


def equiangular_flow(
    start: ArrayLike, beta: ArrayLike, time: ArrayLike, particles: ArrayLike, flow: Flow = "sa"
) -> Array:
    """The inner product after `time` >= 0 of `particles` >= 2 that began with the inner product `start`, broadcast.

    `beta` may be negative. NaN where an argument is. Raises UsageError for another flow, and for an inner product that
    so many vectors cannot have: it lies between -1 / (particles - 1) and 1. OntogenyError where the integration fails.
    """
    if flow not in ("sa", "usa"):
        raise UsageError(f"flow: expected sa or usa, got {flow!r}")
    rho, b, t, n = np.broadcast_arrays(*(np.asarray(one, dtype=np.float64) for one in (start, beta, time, particles)))
    if (n < 2).any() or (t < 0).any():
        raise UsageError("expected 2 particles or more and a time of 0 or more")
    known = ~np.isnan(rho + b + t + n)
    if (known & ((rho > 1) | (rho * (n - 1) < -1 - 1e-9))).any():
        raise UsageError("start: expected inner products from -1 / (particles - 1) to 1")
    result = np.where(known, rho, np.nan)
    moving = known & (rho < 1)
    if moving.any():
        result[moving] = _flowed(rho[moving], b[moving], t[moving], n[moving], flow)
    return result


def _flowed(start: Array, beta: Array, time: Array, particles: Array, flow: Flow) -> Array:
    """Vectors (m,), by u = -log(1 - rho), in which the end at rho = 1 is far away and nothing there is stiff."""

    def speed(_: float, u: Array) -> Array:
        apart = np.exp(-u)
        others = np.maximum((particles - 1) * (1 - apart) + 1, 0)
        if flow == "sa":
            weight = np.exp(-np.logaddexp(beta * apart, np.log(particles - 1)))
        else:
            weight = np.exp(-beta * apart) / particles
        return 2 * time * weight * others

    found = solve_ivp(speed, (0, 1), -np.log1p(-start), method="DOP853", rtol=RTOL, atol=ATOL)
    if not found.success:
        raise OntogenyError(
            f"the equiangular flow could not be integrated over that time: {found.message} Give a beta nearer to 0"
        )
    return -np.expm1(-found.y[:, -1])


def predict_mean_cosine(scan: HasDataset | xr.Dataset) -> xr.Dataset:
    """What the self-attention model makes of a network's mean cosine over depth, by its effective beta. Exploratory.

    `scan` has been measured with the probes `clusters` and `effective_beta`. A block counts as one unit of time of the
    flow with that block's beta, the mean over heads, on as many particles as tokens were counted.

    - `predicted_mean_cosine`: from the measured mean cosine at depth 0 on, block after block;
    - `predicted_next_mean_cosine`: one block ahead of the measured mean cosine of the depth before, NaN at depth 0;
    - `block_beta`: what each block was given;
    - `change_correlation`: of the predicted and the measured change of each block, over blocks; NaN for fewer than 3,
      or without variance. Blocks of one model are not independent: it is a description, not a test;
    - `change_error`, `no_change_error`: root mean square error of the mean cosine predicted one block ahead, and of
      the guess that a block changes nothing.

    All over `selection`, and over `checkpoint` where there is one. Raises UsageError for a dataset without these.
    """
    dataset = scan if isinstance(scan, xr.Dataset) else scan.dataset
    missing = [name for name in NEEDS if name not in dataset]
    if missing:
        raise UsageError(
            f"expected a dataset with {' and '.join(NEEDS)}, got none with {', '.join(missing)}: "
            "measure with probes clusters and effective_beta"
        )
    beta = dataset["effective_beta"].astype(np.float64).mean("head").transpose(..., "selection", "layer")
    measured = dataset["mean_cosine"].astype(np.float64).transpose(..., "selection", "depth")
    particles = _particles(dataset, measured)
    accumulated, ahead = measured.values.copy(), np.full(measured.shape, np.nan)
    for layer in range(beta.sizes["layer"]):
        steepness, count = beta.values[..., layer], particles[..., layer]
        accumulated[..., layer + 1] = _one_block(accumulated[..., layer], steepness, count)
        ahead[..., layer + 1] = _one_block(measured.values[..., layer], steepness, count)
    before, after = measured.values[..., :-1], measured.values[..., 1:]
    wrong, still = ahead[..., 1:] - after, before - after
    places, over_depth = measured.dims[:-1], measured.dims
    variables = {
        "predicted_mean_cosine": _described(over_depth, accumulated, "mean cosine by the model from depth 0 on"),
        "predicted_next_mean_cosine": _described(over_depth, ahead, "mean cosine by the model one block ahead"),
        "block_beta": _described(beta.dims, beta.values, "effective beta, mean over heads"),
        "change_correlation": _described(
            places,
            _correlation(ahead[..., 1:] - before, after - before),
            "correlation of predicted and measured change, over blocks",
        ),
        "change_error": _described(places, _root_mean_square(wrong), "error of the mean cosine one block ahead"),
        "no_change_error": _described(places, _root_mean_square(still), "error of the guess that nothing changes"),
    }
    carried = {name: dataset.attrs[name] for name in CARRIED if name in dataset.attrs}
    return xr.Dataset(variables, measured.coords | beta.coords, carried | {"exploratory": EXPLORATORY})


def _particles(dataset: xr.Dataset, measured: xr.DataArray) -> Array:
    """How many tokens were counted, of the shape of `measured`, at least 2."""
    if "cluster_tokens" in dataset:
        return np.maximum(dataset["cluster_tokens"].transpose(*measured.dims).values, 2)
    return np.full(measured.shape, max(int(dataset.attrs["length"]), 2), dtype=np.float64)


def _one_block(cosine: Array, beta: Array, particles: Array) -> Array:
    """The mean cosine a unit of time later; means over sequences may pass the bounds of one by rounding."""
    return equiangular_flow(np.clip(cosine, -1 / (particles - 1), 1), beta, 1.0, particles)


def _correlation(one: Array, other: Array) -> Array:
    """Pearson's, along the last axis, over the places where both are; NaN for fewer than 3, or without variance."""
    both = ~np.isnan(one + other)
    count = both.sum(-1, keepdims=True)
    x, y = (np.where(both, values, 0) for values in (one, other))
    x, y = (np.where(both, values - values.sum(-1, keepdims=True) / np.maximum(count, 1), 0) for values in (x, y))
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    enough = (count[..., 0] >= LEAST_STEPS) & (scale > 0)
    return np.where(enough, (x * y).sum(-1) / np.where(enough, scale, 1), np.nan)


def _root_mean_square(values: Array) -> Array:
    """Along the last axis, of what is not NaN; NaN where nothing is."""
    count = (~np.isnan(values)).sum(-1)
    total = np.nansum(values**2, axis=-1)
    return np.sqrt(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _described(dims: tuple[object, ...], values: Array, long_name: str) -> tuple[object, ...]:
    return dims, values, {"long_name": long_name, "units": "1", "source": SOURCE}
