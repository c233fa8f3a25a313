"""Weights by name, out of the files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ontogeny.dynamics.loading.quiet import reading
from ontogeny.dynamics.loading.torch_files import find_state_dict, read_torch_file, refuse_other_step
from ontogeny.errors import OntogenyError

# Tensors, and what safetensors gives to read them later, which has no type of its own.
Weights: TypeAlias = Mapping[str, Any]

ADVICE = "download or copy this checkpoint again, or leave its step out"
_NAMED = 3
_PAGE = 4096  # bytes that come into memory together, or more


def read_weights(first: Path) -> Weights:
    """The weights that transformers saved, in one file or in the shards that an index names.

    Raises OntogenyError where a file is missing, corrupt or holds code, or the index is not that of these shards.
    """
    if not first.name.endswith(".index.json"):
        return _read_file(first)
    return _joined(first, _shards(first))


def read_state_dict(path: Path, step: int | None) -> Weights:
    """The weights in a file that a trainer's own code wrote; `step` is what the file's name states, None for nothing.

    Raises OntogenyError where the file is corrupt, holds code, no state dict, or states another step.
    """
    if path.suffix == ".safetensors":
        return _read_file(path)
    contents = read_torch_file(path)
    if step is not None:
        refuse_other_step(path, contents, step)
    weights = find_state_dict(path, contents)
    refuse_hollow(path, weights)
    return weights


def in_memory(weights: Weights) -> Weights:
    """The same weights; what was only mapped from the disk has been read."""
    tensors = {name: one if isinstance(one, torch.Tensor) else one[...] for name, one in weights.items()}
    for tensor in tensors.values():
        tensor.reshape(-1).view(torch.uint8)[::_PAGE].sum()  # which brings in every page, and copies nothing
    return tensors


def refuse_hollow(what: object, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise OntogenyError unless each tensor has its numbers in memory of its own size."""
    hollow = [name for name, tensor in weights.items() if not _is_plain(tensor)]
    if hollow:
        raise OntogenyError(
            f"{len(hollow)} weights of {what} are no plain tensors ({some(hollow)}): expected dense ones with a number "
            "in memory for each entry; save them as such"
        )


def some(names: Iterable[str]) -> str:
    """The first few of `names` in order, for a sentence."""
    shown = sorted(names)
    return ", ".join(shown[:_NAMED]) + (", ..." if len(shown) > _NAMED else "")


def _is_plain(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _read_file(path: Path) -> Weights:
    if path.suffix != ".safetensors":
        contents = read_torch_file(path)
        weights = find_state_dict(path, contents)
        refuse_hollow(path, weights)
        return weights
    from safetensors import safe_open

    with reading(path, ADVICE):
        file = safe_open(path, framework="pt")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118


def _shards(index: Path) -> dict[str, set[str]]:
    """The names of the tensors in each shard, by the shard's name."""
    with reading(index, ADVICE):
        contents = json.loads(index.read_text(encoding="utf-8"))
    places = contents.get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise OntogenyError(
            f"{index} has no `weight_map` from tensors to shards: expected transformers' index; {ADVICE}"
        )
    shards: dict[str, set[str]] = {}
    for tensor, shard in places.items():
        shards.setdefault(shard, set()).add(tensor)
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    outside = [shard for shard in shards if Path(shard).name != shard or Path(shard).suffix != suffix]
    if outside:
        raise OntogenyError(
            f"{index} names {outside[0]!r} as a shard: expected the name of a {suffix} file beside it; {ADVICE}"
        )
    lost = [shard for shard in shards if not (index.parent / shard).is_file()]
    if lost:
        raise OntogenyError(f"{index} names {len(shards)} shards, and these are not there: {some(lost)}; {ADVICE}")
    return shards


def _joined(index: Path, shards: Mapping[str, set[str]]) -> Weights:
    """All shards' weights; refused where one lies elsewhere than the index says, as in shards that were mixed up."""
    due = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    weights: dict[str, Any] = {}
    for shard in sorted(shards):
        held = _read_file(index.parent / shard)
        strangers = [name for name in held if name in weights or due.get(name, shard) != shard]
        if strangers:
            raise OntogenyError(
                f"{index.parent / shard} holds {len(strangers)} tensors that {index.name} places elsewhere "
                f"({some(strangers)}): the shards are not those of this index; {ADVICE}"
            )
        weights.update(held)
    return weights
