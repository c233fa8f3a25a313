"""Files of state dicts for tests, as trainers write them, and files that would run code if they were unpickled."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

LIGHTNING = "2.5.0"


def save_lightning(file: Path, model: PreTrainedModel, step: int, prefix: str = "model.", **extra: object) -> Path:
    """Save a checkpoint as Lightning does: weights behind the attribute's name, beside an optimizer's state."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    state = {index: {"step": torch.tensor(float(step)), "exp_avg": tensor} for index, tensor in enumerate(weights)}
    contents = {
        "epoch": 1,
        "global_step": step,
        "pytorch-lightning_version": LIGHTNING,
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "", "kth_value": torch.tensor(0.0)}},
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 1e-3, "params": list(state)}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 1e-3},
    }
    torch.save(contents | extra, file)
    return file


def save_config(folder: Path, model: PreTrainedModel) -> Path:
    """Save the model's config alone, which then names no class, and return the folder."""
    model.config.save_pretrained(folder)
    return folder


class Canary:
    """Unpickled, it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))
