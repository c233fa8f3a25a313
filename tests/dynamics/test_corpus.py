"""What is measured on: which documents, cut how, behind which special tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.corpus import Corpus, make_corpus
from ontogeny.dynamics.series import Series
from ontogeny.errors import OntogenyError, UsageError
from tests.byte_tokenizer import BOS, byte_tokenizer

ARCH = ArchSpec(layers=1, width=8, heads=1, kv_heads=1, head_dim=8, ffn=32, vocab=257)


def series(tokenizer=None, task=None, vocab=257):
    arch = ArchSpec(**{**ARCH.to_dict(), "vocab": vocab})
    return Series("x", "x", (), arch, lambda: tokenizer, task=task)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "corpus.jsonl"
    documents = ["a" * 30, "b" * 3, "c" * 30, "d" * 30]
    path.write_text("\n".join(json.dumps({"text": text}) for text in documents) + "\n\n")
    return str(path)


def letters(corpus):
    plain = byte_tokenizer().get_vocab()
    names = {i: letter for letter, i in plain.items()}
    return ["".join("^" if i == BOS else names[i] for i in row) for row in corpus.ids.tolist()]


def test_the_first_documents_that_fit_are_used_in_order_and_cut(texts):
    corpus = make_corpus(texts, series(byte_tokenizer()), sequences=2, length=5)
    assert letters(corpus) == ["^aaaa", "^cccc"]
    assert corpus.skipped == 1 and corpus.ids.dtype == np.int64


@pytest.mark.parametrize(
    ("own_bos", "policy", "expected"),
    [
        (True, "auto", "^aaaa"),
        (True, "always", "^aaaa"),
        (True, "never", "aaaaa"),
        (False, "auto", "aaaaa"),
        (False, "always", "^aaaa"),
    ],
)
def test_a_bos_is_never_doubled(texts, own_bos, policy, expected):
    corpus = make_corpus(texts, series(byte_tokenizer(own_bos)), sequences=1, length=5, bos=policy)
    assert letters(corpus) == [expected] and corpus.bos == policy


def test_a_paragraph_of_a_text_file_is_a_document(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("first one\nstill first\n\n\n\nsecond one here\n\nno\n")
    corpus = make_corpus(str(path), series(byte_tokenizer(False)), sequences=2, length=9)
    assert letters(corpus) == ["firstĠone", "secondĠon"]


def test_paragraphs_may_end_as_windows_ends_lines(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"first one\r\n\r\nsecond one\r\n")
    corpus = make_corpus(str(path), series(byte_tokenizer(False)), sequences=2, length=9)
    assert letters(corpus) == ["firstĠone", "secondĠon"]


def test_ids_are_taken_as_they_are(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"ids": [5, 6, 7, 8]}\n{"ids": [1]}\n{"ids": [9, 9, 9]}\n')
    corpus = make_corpus(str(path), series(), sequences=2, length=3)
    assert corpus.ids.tolist() == [[5, 6, 7], [9, 9, 9]]


def test_builtin_needs_no_file_and_is_the_default_with_a_tokenizer():
    corpus = make_corpus(None, series(byte_tokenizer()), sequences=20, length=64)
    assert corpus.name == "builtin" and corpus.ids.shape == (20, 64)
    assert (corpus.ids[:, 0] == BOS).all()
    assert len({tuple(row) for row in corpus.ids.tolist()}) == 20
    assert corpus.fingerprint == make_corpus("builtin", series(byte_tokenizer()), sequences=20, length=64).fingerprint


def test_random_is_the_default_without_a_tokenizer_and_is_uniform():
    corpus = make_corpus(None, series(vocab=50), sequences=200, length=100)
    assert corpus.name == "random"
    counts = np.bincount(corpus.ids.ravel(), minlength=50)
    expected = corpus.ids.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 90  # chi-squared, 49 degrees of freedom: p about 0.0003
    again = make_corpus("random", series(vocab=50), sequences=3, length=100)
    assert np.array_equal(again.ids, corpus.ids[:3])


@pytest.mark.parametrize(
    ("own_bos", "policy", "first"), [(True, "auto", True), (True, "never", False), (False, "always", True)]
)
def test_random_ids_follow_the_bos_policy(own_bos, policy, first):
    corpus = make_corpus("random", series(byte_tokenizer(own_bos)), sequences=9, length=8, bos=policy)
    assert (corpus.ids[:, 0] == BOS).all() == first
    assert corpus.ids.shape == (9, 8)


def test_a_series_with_a_task_is_measured_on_it():
    corpus = make_corpus(None, series(task=lambda n, t: np.ones((n, t), dtype=np.int64)), sequences=2, length=4)
    assert corpus.name == "task" and corpus.ids.tolist() == [[1] * 4] * 2


def test_the_fingerprint_tells_other_ids_and_shapes_apart():
    ids = np.arange(12).reshape(3, 4)
    prints = {Corpus("x", a, "auto").fingerprint for a in (ids, ids + 1, ids.reshape(4, 3), ids.reshape(2, 6))}
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ('{"text": "short"}\n', "c.jsonl", r"has 0 documents of at least 50 tokens, expected 1 \(the longest has 6\)"),
        ("not json\n", "c.jsonl", "line 1 is not JSON"),
        ('{"body": "x"}\n', "c.jsonl", "line 1 holds neither a string `text` nor a list of token `ids`"),
        ('{"ids": [1, 2.5]}\n', "c.jsonl", "neither a string `text`"),
        ('{"ids": [true, false]}\n', "c.jsonl", "neither a string `text`"),
        ('{"ids": [1180591620717411303424, 1]}\n', "c.jsonl", "neither a string `text`"),
        ("x", "c.csv", "there is no corpus"),
        (None, "absent.txt", "there is no corpus"),
    ],
)
def test_files_that_do_not_serve(tmp_path, content, name, words):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(OntogenyError, match=words):
        make_corpus(str(path), series(byte_tokenizer()), sequences=1, length=50)


def test_only_a_newline_ends_a_line(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes("\ufeff".encode() + '{"text": "a\u2028b\u0085c"}\n'.encode())
    corpus = make_corpus(str(path), series(byte_tokenizer(False)), sequences=1, length=7)
    assert corpus.ids.shape == (1, 7)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(OntogenyError, match="cannot read the corpus"):
        make_corpus(str(path), series(byte_tokenizer()), sequences=1, length=3)


def test_a_bos_policy_for_ids_is_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"ids": [5, 6, 7]}\n')
    with pytest.raises(UsageError, match=r"--bos always .* is token ids already"):
        make_corpus(str(path), series(), sequences=1, length=2, bos="always")


def test_a_bos_policy_for_random_ids_without_a_tokenizer_is_refused():
    with pytest.raises(UsageError, match=r"--bos always .* without a tokenizer is token ids already"):
        make_corpus(None, series(), sequences=1, length=4, bos="always")


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"ids": [1, 300]}\n')
    with pytest.raises(OntogenyError, match="token ids from 1 to 300, x knows 0 to 256"):
        make_corpus(str(path), series(), sequences=1, length=2)


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(OntogenyError, match="has no tokenizer"):
        make_corpus("builtin", series(), sequences=1, length=4)


def test_always_needs_a_bos_token():
    tokenizer = byte_tokenizer(False)
    tokenizer.bos_token = None
    with pytest.raises(OntogenyError, match="BOS token, and this one has none"):
        make_corpus("builtin", series(tokenizer), sequences=1, length=4, bos="always")


@pytest.mark.parametrize("request_", [{"sequences": 0, "length": 4}, {"sequences": 1, "length": 1}])
def test_nothing_to_measure_on_is_wrong_usage(request_):
    with pytest.raises(UsageError, match="at least 1 sequence of at least 2 tokens"):
        make_corpus("random", series(), **request_)


def test_an_unknown_bos_policy_is_wrong_usage():
    with pytest.raises(UsageError, match="unknown BOS policy 'maybe'"):
        make_corpus("random", series(), sequences=1, length=4, bos="maybe")


def test_a_task_that_is_not_there():
    with pytest.raises(OntogenyError, match="no task of its own"):
        make_corpus("task", series(), sequences=1, length=4)


def test_a_repeated_token_is_drawn_for_each_sequence_and_follows_the_special_tokens():
    plain = make_corpus("repeated", series(byte_tokenizer()), sequences=20, length=7, bos="never").ids
    assert (plain == plain[:, :1]).all() and len(set(plain[:, 0])) > 10
    marked = make_corpus("repeated", series(byte_tokenizer()), sequences=20, length=7).ids
    assert (marked[:, 0] == BOS).all() and (marked[:, 1:] == marked[:, 1:2]).all()
    assert (marked[:, 1] == plain[:, 0]).all()
    assert make_corpus("repeated", series(), sequences=2, length=7).ids.shape == (2, 7)
