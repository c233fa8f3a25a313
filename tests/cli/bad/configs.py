"""Configs that are damaged, or not of the weights, in step2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.checkpoint_folders import edit_config, save_tiny
from tests.cli.bad.row import Row, neox, source, spoiled, step2


def config(**changes: object) -> Callable[[Path], object]:
    return step2(lambda folder: edit_config(folder, **changes))


def config_text(text: str) -> Callable[[Path], object]:
    return step2(lambda folder: (folder / "config.json").write_text(text))


# Configs: that of the last checkpoint is read for the architecture, so that some stop the scan.
CONFIGS = [
    spoiled(
        "another architecture",
        step2(lambda f: shutil.copy(save_tiny(f.parent.parent / "gpt2", "gpt2") / "config.json", f)),
        r"do not fit its config: \d+ missing .*unexpected",
    ),
    spoiled("more layers than weights", config(num_hidden_layers=4), r"\d+ missing .*gpt_neox\.layers\.3"),
    spoiled(
        "a class that nobody has",
        config(architectures=["NobodysModel"]),
        "is a NobodysModel, which transformers .* does not have",
    ),
    spoiled("a type that nobody has", config(model_type="nobody"), r"config\.json cannot be read .*nobody"),
    spoiled(
        "heads that do not divide the width",
        config(num_attention_heads=5),
        "step2.* cannot be read|do not fit its config",
    ),
    Row("a config that is not JSON", config_text("{"), 1, r"config\.json cannot be read as JSON"),
    Row(
        "a config in another encoding",
        step2(lambda f: (f / "config.json").write_bytes(b"\xff\xfe{\x00}\x00")),
        1,
        r"config\.json cannot be read as JSON",
    ),
    Row("a config that is nested without end", config_text("[" * 200_000), 1, r"config\.json cannot be read as JSON"),
    Row("a config that is a list", config_text("[]"), 1, r"config\.json holds a list: expected a JSON object"),
    Row("a config without sizes", config(hidden_size=None), 1, "config states no `hidden_size`"),
    Row("sizes that are words", config(hidden_size="wide"), 1, "config states no `hidden_size`"),
    Row("no heads", config(num_attention_heads=0), 1, "config states 0 as `num_attention_heads`: expected a positive"),
    Row("a negative vocabulary", config(vocab_size=-5), 1, "config states -5 as `vocab_size`: expected a positive"),
    Row(
        "no config beside a file",
        lambda t: torch.save(neox(), t / "step1.pt"),
        1,
        r"step1\.pt has no config\.json beside it",
        source("{tmp}/step1.pt"),
    ),
]
