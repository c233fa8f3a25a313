"""The arithmetic between a checkpoint's dataset and one published number."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf

import numpy as np
import torch
import xarray as xr

from ontogeny.dynamics.verify.published import Value
from ontogeny.errors import OntogenyError
from ontogeny.probes.massive import NONE, is_massive

EPSILON, STRICT_EPSILON = 0.3, 0.8
MOST = 0.5
IN_PERCENT = 100.0


def sink_rate(found: xr.Dataset) -> float:
    """Sink_1 in percent: the mean of the indicator over sequences, blocks and heads (2410.10781)."""
    return IN_PERCENT * float(found["sink_rate"].sel(epsilon=EPSILON, position=0).mean())


def strict_sink_rate(found: xr.Dataset) -> float:
    """The same with the threshold of 2504.02732."""
    return IN_PERCENT * float(found["sink_rate"].sel(epsilon=STRICT_EPSILON, position=0).mean())


def peak(found: xr.Dataset) -> float:
    """The largest of the blocks' mean largest |h|."""
    return float(_means(found, "top_activation").max())


def peak_block(found: xr.Dataset) -> int:
    """The first block, from 0, whose mean largest |h| is the largest, all of them rounded to bfloat16."""
    return int(torch.tensor(_means(found, "top_activation")).bfloat16().float().numpy().argmax())


def peak_dimension(found: xr.Dataset) -> int:
    """The dimension that holds the largest |h| at that block in most sequences; of equally frequent ones the first."""
    named = found["top_dimension"].sel(rank=1, depth=peak_block(found) + 1).values
    dimensions, counts = np.unique(named, return_counts=True)
    return int(dimensions[counts.argmax()])


def massive_blocks(found: xr.Dataset) -> int:
    """How many blocks meet the criterion on their means over sequences, as the code of 2503.22329 asks it."""
    return int(is_massive(_means(found, "top_activation"), _means(found, "median_activation")).sum())


def dimensions(found: xr.Dataset) -> tuple[int, ...]:
    """The two dimensions that most sequences share among their three largest |h| at the block of the peak."""
    shared = found["shared_dimension"].sel(depth=peak_block(found) + 1).values[:2]
    return tuple(sorted(shared[shared != NONE].tolist()))


def first_block(found: xr.Dataset) -> int:
    """The first block, from 1, at which most sequences have a massive activation; 0 for none."""
    return min(_massive_depths(found), default=0)


def last_block(found: xr.Dataset) -> int:
    """The last of them; 0 for none."""
    return max(_massive_depths(found), default=0)


def ratio_of_means(found: xr.Dataset) -> float:
    """The largest over blocks of the mean largest over the mean median |h| (2508.03616, Eq. 8)."""
    return float(_blocks(found["massive_ratio_of_means"]).max())


def perplexity(found: xr.Dataset) -> float:
    """Of the model as it is."""
    return _exp(float(found["loss"]))


def perplexity_zero(found: xr.Dataset) -> float:
    """With massive activations set to 0."""
    return _exp(float(found["loss_ablated"].sel(intervention="massive_to_zero")))


def perplexity_mean(found: xr.Dataset) -> float:
    """With massive activations set to their mean."""
    return _exp(float(found["loss_ablated"].sel(intervention="massive_to_mean")))


READERS: dict[str, Callable[[xr.Dataset], Value]] = {
    reader.__name__: reader
    for reader in (
        sink_rate,
        strict_sink_rate,
        peak,
        peak_block,
        peak_dimension,
        massive_blocks,
        dimensions,
        first_block,
        last_block,
        ratio_of_means,
        perplexity,
        perplexity_zero,
        perplexity_mean,
    )
}


def _blocks(values: xr.DataArray) -> xr.DataArray:
    """Without depth 0, which no block has written."""
    return values.sel(depth=slice(1, None))


def _means(found: xr.Dataset, name: str) -> np.ndarray:
    """Means over sequences at each block, in float64; of the largest where there are several ranks."""
    values = _blocks(found[name])
    if "rank" in values.dims:
        values = values.sel(rank=1)
    return values.mean("sequence", dtype=np.float64).values


def _massive_depths(found: xr.Dataset) -> list[int]:
    rate = _blocks(found["massive_rate"])
    return [int(depth) for depth in rate.depth[rate > MOST]]


def _exp(loss: float) -> float:
    """Raises OntogenyError for a loss that is no number."""
    if loss != loss:
        raise OntogenyError("the loss is no number, as it is where an intervention finds nothing to change")
    try:
        return exp(loss)
    except OverflowError:
        return inf
