"""What users hand over as arrays, as tensors; whatever does not fit is refused by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ontogeny.errors import OntogenyError


def refuse(name: str, expected: str, got: object) -> NoReturn:
    """Raise OntogenyError about the argument `name`."""
    told = f"shape {tuple(got)}" if isinstance(got, torch.Size | tuple) else got
    raise OntogenyError(f"{name}: expected {expected}, got {told}")


def as_tensor(name: str, given: Any) -> Tensor:
    """A tensor or array as a tensor without gradients; it shares memory where that can be written to."""
    if isinstance(given, Tensor):
        return given.detach()
    try:
        array = np.asarray(given)
        return torch.from_numpy(
            np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements=["C", "W"])
        )
    except (TypeError, ValueError) as error:
        raise OntogenyError(f"{name}: expected a tensor or an array of numbers, got {type(given).__name__}") from error


def as_layers(name: str, given: Any, ndim: int) -> list[Tensor]:
    """Arrays of `ndim` dimensions and real numbers, from a sequence of them or one array with an axis more before."""
    if given is None:
        return []
    if isinstance(given, str | bytes) or not (isinstance(given, Sequence | Tensor) or hasattr(given, "__array__")):
        refuse(name, "an array, or a sequence of one for each layer", f"a {type(given).__name__}")
    if not isinstance(given, Sequence):
        whole = as_tensor(name, given)
        if whole.ndim != ndim + 1:
            refuse(name, f"a sequence of arrays of {ndim} dimensions, or one array of {ndim + 1}", whole.shape)
        given = list(whole)
    found = [as_tensor(f"{name}[{index}]", one) for index, one in enumerate(given)]
    if not found:
        refuse(name, "at least one layer", "none")
    for index, one in enumerate(found):
        if not one.is_floating_point() or one.ndim != ndim or 0 in one.shape:
            refuse(
                f"{name}[{index}]",
                f"floating-point numbers in {ndim} dimensions",
                f"{str(one.dtype).removeprefix('torch.')} of shape {tuple(one.shape)}",
            )
    return found


def as_token_ids(name: str, given: Any, shape: tuple[int, int] | None = None) -> Tensor:
    """Token ids (N, T), of the `shape` if one is given; from an array, or from a sequence of ones of equal length."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        rows = [as_tensor(f"{name}[{index}]", one) for index, one in enumerate(given)]
        lengths = sorted({row.shape[0] if row.ndim == 1 else 0 for row in rows})
        if len(lengths) > 1:
            refuse(
                name,
                "sequences of one length: cut them to it, or pad on the right and give an attention_mask",
                f"lengths from {lengths[0]} to {lengths[-1]}",
            )
        ids = torch.stack(rows) if rows else torch.empty(0)
    else:
        ids = as_tensor(name, given)
    if ids.ndim != 2 or 0 in ids.shape or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        refuse(name, f"token ids, whole numbers of shape {shape or '(N, T)'}", _described(ids))
    if shape is not None and tuple(ids.shape) != shape:
        refuse(name, f"token ids of shape {shape}", ids.shape)
    return ids.long()


def as_mask(name: str, given: Any, shape: tuple[int, int]) -> Tensor:
    """What is no padding: bool of the `shape`, from ones and zeros or bool, with a token in each sequence."""
    mask = as_tensor(name, given)
    if tuple(mask.shape) != shape or not bool(((mask == 0) | (mask == 1)).all()):
        refuse(name, f"1 at tokens and 0 at padding, of shape {shape}", _described(mask))
    valid = mask.bool()
    if not bool(valid.any(1).all()):
        refuse(name, "at least one token in each sequence", "one that is padding throughout")
    return valid


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
