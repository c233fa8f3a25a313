"""The token sequences that a scan measures on: the same for every checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ontogeny.errors import OntogenyError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.dynamics.series import Series

SEED = 20241014
BUILTIN_CHARACTERS_A_TOKEN = 6
RANDOM, REPEATED = "random", "repeated"
BOS_POLICIES = ("auto", "always", "never")
MOST_TOKENS = 2**31


@dataclass(frozen=True)
class Corpus:
    """Token ids (N, T) int64; `skipped` documents, before the last one used, were too short."""

    name: str
    ids: np.ndarray
    bos: str
    skipped: int = 0

    @property
    def fingerprint(self) -> str:
        """A digest of the ids: two corpora with the same one are the same numbers."""
        shape = f"{self.ids.shape}".encode()
        return hashlib.sha256(shape + np.ascontiguousarray(self.ids, dtype="<i8").tobytes()).hexdigest()[:16]


def make_corpus(name: str | None, series: Series, *, sequences: int, length: int, bos: str = "auto") -> Corpus:
    """`sequences` documents of `length` tokens each, for the models of `series`.

    `name` is `builtin` (the documentation topics that Python carries), `random` (seeded uniform token ids), `repeated`
    (in each sequence one such id, over and over), `task` (the series' own task), or a file: `.jsonl` whose lines hold
    `text` or `ids`, or `.txt`, a paragraph a document. None chooses the series' own task, `builtin` where there is a
    tokenizer, else `random`.

    A document is tokenized with the tokenizer's default special tokens (`bos` = `always` or `never` overrules them) and
    cut to `length`, specials included; shorter ones are skipped; the first `sequences` that fit are used, in order.

    Raises OntogenyError where fewer documents fit, no tokenizer is at hand, or ids lie outside the vocabulary.
    """
    if sequences < 1 or length < 2:
        raise UsageError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} of {length}")
    if sequences * length > MOST_TOKENS:
        raise UsageError(
            f"{sequences} sequences of {length} tokens are more than {MOST_TOKENS} tokens, which no scan gets through: "
            "ask for fewer"
        )
    if bos not in BOS_POLICIES:
        raise UsageError(f"unknown BOS policy {bos!r}: expected {', '.join(BOS_POLICIES)}")
    tokenizer = None if series.task else series.tokenizer()
    name = name or _default_name(series, tokenizer)
    if name in (RANDOM, REPEATED) and tokenizer is None:
        _refuse_bos(bos, f"a corpus of {name} ids without a tokenizer")
    if name == "task":
        _refuse_bos(bos, "the series' own task")
        return _task_corpus(series, sequences, length)
    if name in (RANDOM, REPEATED):
        drawn = 1 if name == REPEATED else length
        documents = _random_documents(series.arch.vocab, tokenizer, bos, length, drawn)
    elif name == "builtin":
        documents = _tokenized(_builtin_texts(length), tokenizer, bos, series.name)
    else:
        documents = _file_documents(Path(name), tokenizer, bos, series.name)
    corpus = _first_that_fit(name, documents, sequences, length, bos)
    _check_vocabulary(corpus, series)
    return corpus


def _default_name(series: Series, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if series.task is not None:
        return "task"
    return RANDOM if tokenizer is None else "builtin"


def _refuse_bos(bos: str, what: str) -> None:
    if bos != "auto":
        raise UsageError(f"--bos {bos} changes how text is tokenized, and {what} is token ids already: leave it out")


def _task_corpus(series: Series, sequences: int, length: int) -> Corpus:
    if series.task is None:
        raise OntogenyError(
            f"{series.name} has no task of its own: expected --corpus FILE, builtin, random or repeated"
        )
    return Corpus("task", series.task(sequences, length), bos="task")


def _first_that_fit(name: str, documents: Iterable[list[int]], sequences: int, length: int, bos: str) -> Corpus:
    kept: list[list[int]] = []
    skipped = longest = 0
    for ids in documents:
        longest = max(longest, len(ids))
        if len(ids) < length:
            skipped += 1
            continue
        kept.append(ids[:length])
        if len(kept) == sequences:
            return Corpus(name, np.array(kept, dtype=np.int64), bos, skipped)
    raise OntogenyError(
        f"the corpus {name} has {len(kept)} documents of at least {length} tokens, expected {sequences} "
        f"(the longest has {longest}): lower --sequences or --length, or give a longer corpus"
    )


def _tokenized(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase | None, bos: str, series: str
) -> Iterator[list[int]]:
    if tokenizer is None:
        raise OntogenyError(
            f"{series} has no tokenizer, so text cannot be measured on: use --corpus random, "
            "or a .jsonl file whose lines hold token `ids`"
        )
    for text in texts:
        yield _with_bos(tokenizer(text, add_special_tokens=bos != "never").input_ids, tokenizer, bos)


def _with_bos(ids: list[int], tokenizer: PreTrainedTokenizerBase, bos: str) -> list[int]:
    if bos != "always":
        return ids
    if tokenizer.bos_token_id is None:
        raise OntogenyError("--bos always needs a tokenizer with a BOS token, and this one has none: use --bos auto")
    return ids if ids[:1] == [tokenizer.bos_token_id] else [tokenizer.bos_token_id, *ids]


def _builtin_texts(length: int) -> Iterator[str]:
    """Python's documentation topics in alphabetic order, joined, and cut into pieces of 6 characters a token."""
    from pydoc_data.topics import topics

    joined = "\n\n".join(topics[name] for name in sorted(topics))
    piece = BUILTIN_CHARACTERS_A_TOKEN * length
    return (joined[start : start + piece] for start in range(0, len(joined), piece))


def _random_documents(
    vocabulary: int, tokenizer: PreTrainedTokenizerBase | None, bos: str, length: int, drawn: int
) -> Iterator[list[int]]:
    """Endless seeded uniform ids, behind the special tokens that the tokenizer would put first.

    At most `drawn` ids of a document are drawn, and repeated until it is full.
    """
    first: list[int] = []
    if tokenizer is not None and bos != "never":
        marked = tokenizer("a").input_ids
        plain = tokenizer("a", add_special_tokens=False).input_ids
        first = _with_bos(marked[: marked.index(plain[0])] if plain and plain[0] in marked else [], tokenizer, bos)
    generator = np.random.default_rng(SEED)
    while True:
        count = length - len(first)
        yield first + np.resize(generator.integers(vocabulary, size=min(drawn, count)), count).tolist()


def _file_documents(
    path: Path, tokenizer: PreTrainedTokenizerBase | None, bos: str, series: str
) -> Iterator[list[int]]:
    if path.suffix not in (".txt", ".jsonl") or not path.is_file():
        raise UsageError(
            f"there is no corpus {path}: expected builtin, random, repeated, task, or a .jsonl or .txt file"
        )
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == ".txt":
                paragraphs = (one for one in file.read().split("\n\n") if one.strip())
                yield from _tokenized(paragraphs, tokenizer, bos, series)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _jsonl_document(line, f"{path}, line {number}", tokenizer, bos, series)
    except (OSError, UnicodeDecodeError) as error:
        raise OntogenyError(f"cannot read the corpus {path} ({error}): expected text in UTF-8") from error


def _jsonl_document(
    line: str, where: str, tokenizer: PreTrainedTokenizerBase | None, bos: str, series: str
) -> list[int]:
    try:
        record: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise OntogenyError(f"{where} is not JSON ({error}): expected an object with `text` or `ids`") from error
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        return next(_tokenized([record["text"]], tokenizer, bos, series))
    ids = record.get("ids") if isinstance(record, dict) else None
    if isinstance(ids, list) and all(type(one) is int and 0 <= one < 2**31 for one in ids):
        _refuse_bos(bos, where)
        return ids
    raise OntogenyError(f"{where} holds neither a string `text` nor a list of token `ids`")


def _check_vocabulary(corpus: Corpus, series: Series) -> None:
    low, high = int(corpus.ids.min()), int(corpus.ids.max())
    if low < 0 or high >= series.arch.vocab:
        raise OntogenyError(
            f"the corpus {corpus.name} holds token ids from {low} to {high}, {series.name} knows 0 to "
            f"{series.arch.vocab - 1}: expected the tokenizer of this very model"
        )
