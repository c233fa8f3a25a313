"""The protocol that a probe follows, and the edge where its arrays get their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import xarray as xr
from torch import Tensor

from ontogeny.probes.capture import Trace

Variable = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class ProbeSettings:
    """What every probe of a scan is told: the sequences' length, and how many key positions to keep (None: all)."""

    length: int
    positions: int | None = 16


class Probe(Protocol):
    """Reduces each Trace on its device, then turns all sequences' arrays into a labelled dataset."""

    needs: ClassVar[frozenset[str]]

    def __init__(self, settings: ProbeSettings) -> None: ...

    def reduce(self, trace: Trace) -> dict[str, Tensor]:
        """One pass's numbers, small tensors whose axis 0 is the sequence."""

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """All passes' numbers, concatenated over sequences, as named variables with their coordinates."""


def variable(dims: str, values: np.ndarray, long_name: str, units: str, source: str, **more: Any) -> Variable:
    """A dataset's variable: `dims` is a string of names, `source` an arXiv id."""
    attributes = {"long_name": long_name, "units": units, "source": f"arXiv:{source}", **more}
    return tuple(dims.split()), values, attributes


def lower_median(values: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    """The median along `axis` of what is not NaN, the lower of two middle values; NaN where nothing is there."""
    flat = np.moveaxis(values, axis, range(-len(axis), 0))
    flat = np.sort(flat.reshape(*flat.shape[: -len(axis)], -1), axis=-1)  # NaN comes last
    middle = np.maximum((~np.isnan(flat)).sum(-1, keepdims=True) - 1, 0) // 2
    return np.take_along_axis(flat, middle, axis=-1)[..., 0]


def mean_where(there: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean over sequences, axis 0, of the values that are `there`; NaN where none is."""
    count = there.sum(axis=0)
    total = np.where(there, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan, np.result_type(total, np.float32)), where=count > 0)
