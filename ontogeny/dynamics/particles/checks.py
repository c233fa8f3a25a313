"""Numbers that a simulation was given, checked one by one."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ontogeny.errors import UsageError

Array = NDArray[np.float64]


def whole(name: str, value: int, least: int) -> int:
    """`value`, a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UsageError(f"expected {name} to be a whole number of at least {least}, got {value!r}")
    return int(value)


def number(name: str, value: object) -> float:
    """`value`, a real number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise UsageError(f"expected {name} to be a number, got {value!r}")
    return float(value)


def floats(name: str, values: ArrayLike) -> Array:
    """`values` as an array of real numbers."""
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "fiubO":
            raise TypeError(f"{found.dtype} is no real number")
        return np.array(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"expected {name} to be real numbers, got {values!r}") from error


def numbers(name: str, values: ArrayLike) -> Array:
    """`values`, one real number or several, as an array of one dimension."""
    found = np.atleast_1d(floats(name, values))
    if found.ndim != 1 or not len(found):
        raise UsageError(f"expected {name} to be one or more numbers, got shape {np.shape(values)}")
    return found


def some(values: Array) -> str:
    """The first of `values` in words."""
    text = ", ".join(f"{one:g}" for one in values[:6])
    return text + ", ..." if len(values) > 6 else text
