"""One checkpoint in a `.gguf` file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.checkpoint import UNKNOWN_STEP, Checkpoint
from ontogeny.dynamics.loading.gguf import checked_header, collector_paused, quantisation, read_gguf_config
from ontogeny.dynamics.loading.local_listing import list_local
from ontogeny.dynamics.series import Series

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_gguf(path: Path) -> Series:
    """The single checkpoint in a `.gguf` file, its weights unpacked when it is loaded.

    Raises OntogenyError where the package `gguf` is missing, or the file is corrupt or of an unknown architecture.
    """
    path = path.resolve()
    header = checked_header(path)
    return Series(
        source=str(path),
        name=path.stem,
        checkpoints=(
            Checkpoint(
                name=path.stem,
                step=UNKNOWN_STEP,
                fetch=lambda: path,
                modified=path.stat().st_mtime,
                listing=partial(list_local, path),
            ),
        ),
        arch=ArchSpec.from_config(read_gguf_config(path).to_dict()),
        tokenizer=partial(_tokenizer, path),
        quantisation=quantisation(header),
    )


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    from ontogeny.dynamics.loading.tokenizer import read_tokenizer

    with collector_paused():
        return read_tokenizer(path, path.parent, gguf_file=path.name)
