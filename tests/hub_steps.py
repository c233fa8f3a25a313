"""A repository of six steps whose weights are bytes, for tests that load no model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.hub_server import Repository

ID = "owner/steps"
STEPS = (0, 1, 2, 4, 8, 16)
SIZE = 100_000
WEIGHTS = "model.safetensors"

_CONFIG = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 64,
}


def step_files(step: int) -> dict[str, bytes]:
    """One revision's files: a config, a tokenizer that all steps share, and weights of its own."""
    weights = bytes((step * 7 + index) % 251 for index in range(1000)) * (SIZE // 1000)
    return {"config.json": json.dumps(_CONFIG | {"step": step}).encode(), "tokenizer.json": b"{}", WEIGHTS: weights}


def stepped() -> Repository:
    """The steps as branches, the last of them as `main` too."""
    return Repository({"main": step_files(STEPS[-1]), **{f"step{step}": step_files(step) for step in STEPS}})


def blobs(cache: Path) -> set[str]:
    """The names of all blobs in a cache."""
    return {file.name for file in cache.rglob("blobs/*")}
