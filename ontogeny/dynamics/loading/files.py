"""Which files of a checkpoint matter, and what its `config.json` says."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from ontogeny.archspec import ArchSpec
from ontogeny.errors import OntogenyError

CONFIG = "config.json"
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TOKENIZER_FILES = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
STATE_DICTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_NO_WEIGHTS = re.compile(
    r"(?:^|[-_.])(?:optim|optimi[sz]ers?|(?:lr_)?schedulers?|rng|scaler|training_args|adapter)(?=[-_.])", re.IGNORECASE
)


def weight_patterns(names: Collection[str]) -> tuple[str, ...]:
    """Patterns of the weight files that transformers reads where a folder holds `names`; empty where it reads none.

    Safetensors come before `.bin`, one file before its shards, and never two of them together.
    """
    first = next((name for name in WEIGHTS if name in names), None)
    if first is None:
        return ()
    shards = {
        "model.safetensors.index.json": "model-*.safetensors",
        "pytorch_model.bin.index.json": "pytorch_model-*.bin",
    }
    return (first, shards[first]) if first in shards else (first,)


def state_dict_names(names: Collection[str]) -> tuple[str, ...]:
    """Those of `names` that are files of a state dict, in order.

    The weights that transformers names itself are not among them, nor is what trainers keep beside weights: states of
    the optimizer, the schedule and the random numbers, arguments, adapters.
    """
    return tuple(
        name
        for name in sorted(names)
        if Path(name).suffix in STATE_DICTS
        and name not in WEIGHTS
        and not _SHARD.search(name)
        and not _NO_WEIGHTS.search(name)
    )


def weight_files(place: Path) -> tuple[Path, ...]:
    """The files that hold the weights of the checkpoint at `place`, in order; none where it has none.

    `place` is a file, or a folder: then those that transformers reads, else all that hold a state dict.
    """
    if not place.is_dir():
        return (place,)
    names = file_names(place)
    patterns = weight_patterns(names)
    if not patterns:
        return tuple(place / name for name in state_dict_names(names))
    return tuple(sorted({file for pattern in patterns for file in place.glob(pattern)}))


def file_names(folder: Path) -> set[str]:
    """The names of the files directly in `folder`."""
    return {entry.name for entry in folder.iterdir() if entry.is_file()}


def read_arch(config: Path) -> ArchSpec:
    """The architecture that a `config.json` states. Raises OntogenyError where it is missing or not valid JSON."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OntogenyError(
            f"{config} cannot be read as JSON ({error}): expected the `config.json` that transformers writes beside "
            "the weights; restore it or leave this checkpoint out"
        ) from error
    if not isinstance(values, dict):
        raise OntogenyError(f"{config} holds a {type(values).__name__}: expected a JSON object; restore the file")
    return ArchSpec.from_config(values)
