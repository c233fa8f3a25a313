"""The Bigram-Backcopy task: the smallest language in which attention sinks are known to form (arXiv 2410.13835).

A sequence opens with a start token. Each next token is drawn from the table row of the token before it, unless that
token is a trigger: then the token before the trigger is copied. An attention head is needed after triggers only; what
it does everywhere else is wait, and the start token is where it comes to look.

Everything is drawn from `numpy.random.RandomState`, whose streams numpy has promised never to change, so that weights
trained once are evaluated on the same task for ever.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SYMBOLS = 32
START = SYMBOLS
VOCABULARY = SYMBOLS + 1
TRIGGERS = (1, 3, 5)
LENGTH = 64

CONCENTRATION = 0.3
TRIGGER_BOOST = 0.15

TABLE_SEED = 1234
TRAINING_SEED = 2410
EVALUATION_SEED = 13835

BATCHES_AT_ONCE = 64


@cache
def bigram_table() -> np.ndarray:
    """Probability of each next symbol given the last one: (SYMBOLS, SYMBOLS), rows sum to 1, not writable.

    Rows are Dirichlet(`CONCENTRATION`) draws with `TRIGGER_BOOST` added to every trigger, so that the triggers are the
    three most frequent symbols.
    """
    table = np.random.RandomState(TABLE_SEED).dirichlet(np.full(SYMBOLS, CONCENTRATION), size=SYMBOLS)
    table[:, TRIGGERS] += TRIGGER_BOOST
    table /= table.sum(axis=1, keepdims=True)
    table.flags.writeable = False
    return table


def sample(sequences: int, length: int) -> np.ndarray:
    """Held-out sequences of the task: int64 token ids, (sequences, length), position 0 is `START`.

    Always the same ones: fewer sequences are the first of more, shorter ones the beginnings of longer ones. They come
    from a stream of their own, which training never sees. Raises UsageError when `length` is above `LENGTH`, the
    longest that models of the task are made for, or either number is below 1.
    """
    if sequences < 1:
        raise UsageError(f"expected at least 1 sequence of the Bigram-Backcopy task, got {sequences}")
    if not 1 <= length <= LENGTH:
        raise UsageError(
            f"sequences of the Bigram-Backcopy task are 1 to {LENGTH} tokens long, got length {length}: "
            f"use --length {LENGTH} or less"
        )
    return _generate(np.random.RandomState(EVALUATION_SEED), sequences)[:, :length]


def training_batches(batch_size: int) -> Iterator[np.ndarray]:
    """Endless training batches of the task, each (batch_size, LENGTH) int64; the same stream at every call."""
    random = np.random.RandomState(TRAINING_SEED)
    while True:
        yield from _generate(random, BATCHES_AT_ONCE * batch_size).reshape(BATCHES_AT_ONCE, batch_size, LENGTH)


def is_trigger(tokens: np.ndarray) -> np.ndarray:
    """Where `tokens` are triggers: a boolean array of the same shape."""
    return np.isin(tokens, TRIGGERS)


def _generate(random: np.random.RandomState, sequences: int) -> np.ndarray:
    uniform = random.random_sample((sequences, LENGTH))
    cumulative = bigram_table().cumsum(axis=1)
    tokens = np.full((sequences, LENGTH), START, dtype=np.int64)
    tokens[:, 1] = uniform[:, 1] * SYMBOLS
    for t in range(2, LENGTH):
        last, before = tokens[:, t - 1], tokens[:, t - 2]
        drawn = (cumulative[last] <= uniform[:, t, None]).sum(axis=1)
        drawn = np.minimum(drawn, SYMBOLS - 1)
        copies = is_trigger(last) & (before != START)
        tokens[:, t] = np.where(copies, before, drawn)
    return tokens
