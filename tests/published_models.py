"""Stand-ins for published models: tiny random ones with tokenizers, as files that a stand-in for the Hub serves."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.byte_tokenizer import byte_tokenizer
from tests.checkpoint_folders import contents
from tests.hub_server import Repository
from tests.models import tiny

VOCAB = 257
MASSIVE_DIMENSIONS, MASSIVE_BLOCK = (7, 21), 1
GPT2_XL, LLAMA2, PYTHIA = "openai-community/gpt2-xl", "meta-llama/Llama-2-7b-hf", "EleutherAI/pythia-14m"


def save_published(folder: Path, family: str, seed: int, bos: bool, **changes: object) -> Path:
    """A model of the family with a byte tokenizer; a Llama has massive activations from `MASSIVE_BLOCK` on."""
    model = tiny(family, seed, vocab_size=VOCAB, **changes)
    if family == "llama":
        with torch.no_grad():
            for scale, dimension in zip((3e4, 1e4), MASSIVE_DIMENSIONS, strict=True):
                model.model.layers[MASSIVE_BLOCK].mlp.down_proj.weight[dimension] *= scale
    model.save_pretrained(folder)
    byte_tokenizer(bos).save_pretrained(folder)
    return folder


def save_all(folder: Path) -> dict[str, Path]:
    """One folder for each revision of each model, by `id` or `id@revision`."""
    return {
        GPT2_XL: save_published(folder / "gpt2", "gpt2", 1, bos=False),
        LLAMA2: save_published(folder / "llama", "llama", 2, bos=True, max_position_embeddings=4096),
        PYTHIA: save_published(folder / "main", "gpt_neox", 3, bos=False),
        f"{PYTHIA}@step143000": save_published(folder / "last", "gpt_neox", 4, bos=False),
    }


def served(folders: dict[str, Path]) -> dict[str, Repository]:
    """The repositories of those folders."""
    repositories: dict[str, Repository] = {}
    for name, folder in folders.items():
        hub_id, _, revision = name.partition("@")
        repositories.setdefault(hub_id, Repository()).branches[revision or "main"] = contents(folder)
    return repositories
