"""Tokenizers and corpora."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.byte_tokenizer import byte_tokenizer
from tests.checkpoint_folders import save_word_tokenizer
from tests.cli.bad.row import Row, corpus, nothing, options


def tokenizer(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda tmp: make(tmp / "run")


def corrupt_tokenizer(folder: Path) -> None:
    (save_word_tokenizer(folder) / "tokenizer.json").write_text("{")


def worded(name: str, contents: str) -> Callable[[Path], object]:
    """A corpus for a series with a tokenizer of whole words."""
    return lambda tmp: (save_word_tokenizer(tmp / "run"), corpus(name, contents)(tmp))


TEXT, LINES = options("--corpus", "{tmp}/c.txt"), options("--corpus", "{tmp}/c.jsonl")
TOKENS = [
    Row("no tokenizer", nothing, 0, "note: run has no tokenizer: it is measured on random token ids"),
    Row(
        "a tokenizer of another vocabulary",
        tokenizer(lambda f: byte_tokenizer().save_pretrained(f)),
        1,
        "run knows 0 to 59: expected the tokenizer of this very model",
    ),
    Row("a corrupt tokenizer", tokenizer(corrupt_tokenizer), 1, "run cannot be read .*restore the tokenizer's files"),
    Row(
        "a tokenizer without a vocabulary",
        tokenizer(lambda f: (f / "tokenizer_config.json").write_text("{}")),
        1,
        "tokenizer files but no vocabulary",
    ),
    Row(
        "text without a tokenizer",
        corpus("c.txt", "The sun"),
        1,
        "run has no tokenizer, so text cannot be measured on",
        TEXT,
    ),
    Row(
        "ids outside the vocabulary",
        corpus("c.jsonl", f'{{"ids": {[60] * 20}}}\n' * 2),
        1,
        "token ids from 60 to 60, run knows 0 to 59",
        LINES,
    ),
    Row(
        "negative ids",
        corpus("c.jsonl", f'{{"ids": {[-1] * 20}}}\n' * 2),
        1,
        "line 1 holds neither a string `text` nor a list of token `ids`",
        LINES,
    ),
    Row(
        "ids that are no whole numbers",
        corpus("c.jsonl", '{"ids": [1.5, true, 1e999]}\n'),
        1,
        "line 1 holds neither",
        LINES,
    ),
    Row("a line that is not JSON", corpus("c.jsonl", "ids: 1 2 3\n"), 1, "line 1 is not JSON", LINES),
    Row("a line that is nested without end", corpus("c.jsonl", "[" * 200_000), 1, "line 1 is not JSON", LINES),
    Row("a line with neither", corpus("c.jsonl", '["ids"]\n'), 1, "line 1 holds neither", LINES),
    Row(
        "a corpus that is not UTF-8",
        lambda t: (save_word_tokenizer(t / "run"), corpus("c.txt", b"\xff\xfe\xfa")(t)),
        1,
        "cannot read the corpus .*expected text in UTF-8",
        TEXT,
    ),
    Row(
        "lines that are not UTF-8",
        corpus("c.jsonl", b'{"ids": "\xff"}'),
        1,
        "cannot read the corpus .*expected text in UTF-8",
        LINES,
    ),
    Row(
        "a corpus that is too short",
        worded("c.txt", "The sun\n\nThe sun"),
        1,
        r"has 0 documents of at least 20 tokens, expected 2 \(the longest has 2\)",
        TEXT,
    ),
    Row("an empty corpus", corpus("c.jsonl", ""), 1, "has 0 documents of at least 20 tokens", LINES),
    Row("a corpus that is not there", nothing, 2, r"there is no corpus .*c\.txt", TEXT),
    Row("a corpus that is a folder", lambda t: (t / "c.txt").mkdir(), 2, r"there is no corpus .*c\.txt", TEXT),
    Row("a task that the series has not", nothing, 1, "run has no task of its own", options("--corpus", "task")),
]
