"""The tokenizer in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontogeny.dynamics.loading.files import TOKENIZER_FILES, VOCABULARIES, file_names
from ontogeny.dynamics.loading.quiet import reading
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "The sun rises in the east."
_ADVICE = "restore the tokenizer's files (at best `tokenizer.json` and `tokenizer_config.json`), or remove them all"


def folder_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer whose files lie in `folder`; None where there are none.

    Raises OntogenyError where there are some and they cannot be read.
    """
    names = file_names(folder)
    if not names.intersection(TOKENIZER_FILES):
        return None
    # Without a vocabulary transformers 5 makes up an empty tokenizer of the class that the config suggests.
    if not names.intersection(VOCABULARIES):
        raise OntogenyError(f"{folder} has tokenizer files but no vocabulary ({', '.join(VOCABULARIES)}): {_ADVICE}")
    return read_tokenizer(folder, folder)


def read_tokenizer(path: Path, folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer from `folder` by AutoTokenizer, and see that it makes tokens of a sentence.

    `path` is what an error names. Raises OntogenyError where it cannot be read or makes no tokens.
    """
    from transformers import AutoTokenizer

    with reading(path, _ADVICE):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        tokens = tokenizer.encode(_PROBE, add_special_tokens=False)
    if not tokens:
        raise OntogenyError(f"the tokenizer of {path} makes no tokens of {_PROBE!r}: {_ADVICE}")
    return tokenizer
