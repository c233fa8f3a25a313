"""Files that `torch.save` wrote, read as data: what is pickled in them is never run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch

from ontogeny.dynamics.loading.quiet import reading
from ontogeny.errors import OntogenyError

_PLACES = ("state_dict", "model_state_dict", "model", "module")
_STEPS = ("global_step", "step")
_CLASS = re.compile(r"GLOBAL ([\w.]+)")
_ADVICE = "copy or download the file again, or leave this checkpoint out"
_NAMED = 5


def read_torch_file(path: Path) -> object:
    """What the file holds, its tensors mapped from the disk where it is a zip archive, as torch has long written it.

    Raises OntogenyError where it is cut short or corrupt, would expand when it is read, or holds objects that only
    code could rebuild.
    """
    with reading(path, _ADVICE):
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped:
            _refuse_bomb(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            named = _CLASS.search(str(error))
            raise OntogenyError(
                f"{path} cannot be read: it holds {f'a pickled {named[1]}' if named else 'more than weights'}, and "
                "code in files is never run. Where you trust the file, save its weights alone, with "
                'torch.save({"state_dict": weights}, file) or as safetensors; else leave this checkpoint out'
            ) from error


def _refuse_bomb(path: Path) -> None:
    """Torch stores its entries as they are: one that is compressed, or larger than the file, was not written by it."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = [one for one in entries if one.compress_type != zipfile.ZIP_STORED or one.compress_size != one.file_size]
    declared = sum(one.file_size for one in entries)
    if packed or declared > size:
        raise OntogenyError(
            f"{path} would unpack to {declared} bytes out of {size}: expected the file as torch.save writes it, which "
            "compresses nothing; save the weights again, or leave this checkpoint out"
        )


def find_state_dict(what: object, contents: object) -> Mapping[str, torch.Tensor]:
    """The weights by name in what a file holds: all of it, or what stands under one of the keys that trainers use.

    Raises OntogenyError where there are none, or several.
    """
    if _is_state_dict(contents):
        return contents
    entries = contents if isinstance(contents, Mapping) else {}
    found = [key for key in _PLACES if _is_state_dict(entries.get(key))]
    if len(found) == 1:
        weights: Mapping[str, torch.Tensor] = entries[found[0]]
        return weights
    came = f"several of them ({', '.join(found)})" if found else _described(contents)
    raise OntogenyError(
        f"{what} holds {came}: expected tensors by name, as model.state_dict() gives them, alone or under one of "
        f"{', '.join(_PLACES)}; save the weights alone"
    )


def refuse_other_step(path: Path, contents: object, step: int) -> None:
    """Raise OntogenyError where the file states another step than its name.

    One more is allowed in files of Lightning, which before version 1.6 named them by the last step's index.
    """
    entries = contents if isinstance(contents, Mapping) else {}
    lightning = "pytorch-lightning_version" in entries
    for key in _STEPS:
        stated = _whole_number(entries.get(key))
        if stated is None or stated == step or (lightning and stated == step + 1):
            continue
        raise OntogenyError(
            f"{path} is step {step} by its name, and {stated} by its `{key}`: expected one number; rename it, or save "
            "the weights alone"
        )


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in value.items())
    )


def _whole_number(value: object) -> int | None:
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_floating_point():
        value = value.item()
    return value if type(value) is int else None


def _described(contents: object) -> str:
    if not isinstance(contents, Mapping):
        return f"a {type(contents).__name__}"
    names = [f"{key!s:.40}" for key in list(contents)[:_NAMED]]
    return f"no state dict ({', '.join(names)}{', ...' if len(contents) > _NAMED else ''})" if names else "nothing"
