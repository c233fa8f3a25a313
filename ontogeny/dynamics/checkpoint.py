"""One set of weights of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNKNOWN_STEP = -1


@dataclass(frozen=True)
class Checkpoint:
    """A set of weights: what it is called, when in training it was taken, and how to get it.

    `name` is unique in its series and safe as a folder name. `step` counts optimizer steps (-1: the source states
    none). `tokens` is the number of tokens seen, None where unknown. `fetch` makes the files local, downloading what
    must be downloaded, and returns their folder, or the `.gguf` file. `modified` is when those files last changed, in
    seconds of the epoch; None where a name always means the same content.
    """

    name: str
    step: int
    fetch: Callable[[], Path]
    revision: str = ""
    tokens: float | None = None
    modified: float | None = None

    def load(self, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
        """Fetch the files and load the model, in evaluation mode, without its gradients.

        Raises OntogenyError when a weight is missing, of the wrong shape, unexpected, corrupt or not finite.
        """
        from ontogeny.dynamics.loading.model import load_model

        return load_model(self.fetch(), dtype=dtype, device=device)
