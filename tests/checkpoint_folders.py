"""Checkpoint folders for tests: tiny random models as transformers saves them, and ways to spoil them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.models import tiny

Weights = dict[str, torch.Tensor]


def save_tiny(folder: Path, family: str = "gpt_neox", seed: int = 0, **changes: object) -> Path:
    """Save a tiny model into `folder` and return the folder."""
    tiny(family, seed, **changes).save_pretrained(folder)
    return folder


def edit_weights(folder: Path, edit: Callable[[Weights], object]) -> Path:
    """Pass the folder's weights to `edit`, which changes them in place, and save them again."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def edit_config(folder: Path, **changes: object) -> Path:
    """Change entries of the folder's config; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def to_bin(folder: Path) -> Path:
    """Replace the folder's safetensors by the same weights in `pytorch_model.bin`."""
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    file.unlink()
    return folder


def save_word_tokenizer(folder: Path) -> Path:
    """Save a tokenizer of whole words into `folder` and return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "The": 1, "sun": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
