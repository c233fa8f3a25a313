"""The checkpoints of one training run, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Series:
    """Ordered checkpoints of one training run, with its architecture and its tokenizer.

    `source` is the string that opens it again. `tokenizer` loads the tokenizer, or returns None where the source has
    none. `task`, where the run has a task of its own, generates `(sequences, length)` token ids of it, seeded.
    `default_steps` is the selection that a scan makes when none is asked for. `notes` tell what else the source holds.
    `main` is what the source gives to who asks for no checkpoint in particular; None where there is no such thing.
    """

    source: str
    name: str
    checkpoints: tuple[Checkpoint, ...]
    arch: ArchSpec
    tokenizer: Callable[[], PreTrainedTokenizerBase | None]
    task: Callable[[int, int], np.ndarray] | None = None
    quantisation: str = "none"
    default_steps: str = "all"
    notes: tuple[str, ...] = ()
    main: Checkpoint | None = None

    def with_checkpoints(self, checkpoints: tuple[Checkpoint, ...]) -> Series:
        """The same series, restricted to `checkpoints`."""
        return replace(self, checkpoints=checkpoints)
