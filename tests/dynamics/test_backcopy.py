"""The Bigram-Backcopy task: its rule, its frequencies, and streams that stay apart and stay the same."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

from ontogeny.dynamics import backcopy
from ontogeny.errors import UsageError

TABLE_CORNER = [0.00026341471904, 0.10759091699200, 0.03002840994057, 0.10434376511192]
FIRST_TOKENS = [
    [32, 22, 17, 1, 17, 3, 17, 12, 11, 5, 11, 15],
    [32, 17, 3, 17, 5, 17, 3, 17, 10, 1, 10, 5],
]


def free_rows(tokens: np.ndarray) -> np.ndarray:
    """The sequences that do not open with two triggers; those that do are copies all through, so only nine exist."""
    return tokens[~backcopy.is_trigger(tokens[:, 1:3]).all(axis=1)]


def test_sequences_open_with_the_start_token_which_never_comes_again() -> None:
    tokens = backcopy.sample(200, 64)
    assert tokens.shape == (200, 64)
    assert tokens.dtype == np.int64
    assert (tokens[:, 0] == backcopy.START).all()
    assert tokens[:, 1:].min() >= 0
    assert tokens[:, 1:].max() < backcopy.SYMBOLS


def test_after_a_trigger_the_token_before_it_is_copied() -> None:
    tokens = backcopy.sample(500, 64)
    before, last, following = tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]
    copies = backcopy.is_trigger(last) & (before != backcopy.START)
    assert copies.sum() > 5000
    assert (following[copies] == before[copies]).all()


def test_elsewhere_the_next_token_follows_the_bigram_table() -> None:
    tokens = backcopy.sample(4000, 64)
    before, last, following = tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]
    drawn = ~(backcopy.is_trigger(last) & (before != backcopy.START))
    counts = np.zeros((backcopy.SYMBOLS, backcopy.SYMBOLS))
    np.add.at(counts, (last[drawn], following[drawn]), 1)
    rows = counts.sum(axis=1, keepdims=True)
    table = backcopy.bigram_table()
    # Pearson's statistic over all cells is chi-squared with at most 32 * 31 degrees of freedom: mean 992, deviation 45.
    chi_squared = ((counts - rows * table) ** 2 / (rows * table).clip(min=1e-12))[table > 1e-6].sum()
    assert chi_squared < 992 + 5 * 45


def test_first_symbols_are_uniform() -> None:
    first = np.bincount(backcopy.sample(6400, 2)[:, 1], minlength=backcopy.SYMBOLS)
    assert ((first - 200) ** 2 / 200).sum() < 31 + 5 * np.sqrt(62)


def test_triggers_are_the_most_frequent_symbols_and_thirty_percent_of_tokens() -> None:
    tokens = backcopy.sample(1000, 64)
    assert backcopy.is_trigger(tokens).mean() == pytest.approx(0.30, abs=0.02)
    frequent = np.bincount(tokens[:, 1:].ravel()).argsort()[-3:]
    assert set(frequent) == set(backcopy.TRIGGERS)


def test_the_table_is_a_fixed_set_of_distributions() -> None:
    table = backcopy.bigram_table()
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-12)
    assert (table >= 0).all()
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1.0


def test_the_task_is_the_one_that_the_shipped_weights_were_trained_on() -> None:
    np.testing.assert_allclose(backcopy.bigram_table()[0, :4], TABLE_CORNER, rtol=1e-6)
    assert backcopy.sample(2, 12).tolist() == FIRST_TOKENS


def test_fewer_or_shorter_sequences_are_the_beginnings_of_more_or_longer_ones() -> None:
    tokens = backcopy.sample(20, 64)
    np.testing.assert_array_equal(backcopy.sample(20, 64), tokens)
    np.testing.assert_array_equal(backcopy.sample(7, 64), tokens[:7])
    np.testing.assert_array_equal(backcopy.sample(20, 9), tokens[:, :9])


def test_training_batches_are_the_same_at_every_call_and_never_repeat() -> None:
    batches = np.stack(list(islice(backcopy.training_batches(16), 130)))
    again = np.stack(list(islice(backcopy.training_batches(16), 130)))
    np.testing.assert_array_equal(batches, again)
    assert batches.shape == (130, 16, 64)
    rows = free_rows(batches.reshape(-1, 64))
    assert len(np.unique(rows, axis=0)) == len(rows) > 1900


def test_evaluation_sequences_are_not_among_the_training_sequences() -> None:
    training = np.concatenate(list(islice(backcopy.training_batches(16), 1000)))
    seen = {row.tobytes() for row in free_rows(training)}
    assert not seen & {row.tobytes() for row in free_rows(backcopy.sample(1000, 64))}


def test_sampling_leaves_numpys_own_random_state_alone() -> None:
    state = np.random.get_state()
    backcopy.sample(3, 8)
    after = np.random.get_state()
    assert state[0] == after[0]
    np.testing.assert_array_equal(state[1], after[1])


@pytest.mark.parametrize(("sequences", "length"), [(0, 64), (-1, 64), (4, 0), (4, 65)])
def test_impossible_requests_are_refused(sequences: int, length: int) -> None:
    with pytest.raises(UsageError, match="got"):
        backcopy.sample(sequences, length)


def test_importing_the_task_and_the_trainer_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, ontogeny.dynamics.backcopy, ontogeny.dynamics.pocket; "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
