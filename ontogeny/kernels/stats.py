"""What attention leaves behind besides its output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionStats:
    """One attention call's output and statistics; B sequences, H query heads, T queries, S keys.

    `output` (B, H, T, dv) is in the query's dtype. Everything else is float32; for float64 input,
    and from the reference implementation, float64:

    - `entropy` (B, H, T): of the row's distribution over its keys (and its sink logit, where there is one), nats.
    - `row_max` (B, H, T): the largest attention on a real key.
    - `participation` (B, H, T): 1 / sum of squared probabilities of that distribution, in keys.
    - `mass` (B, H, T): attention on real keys; 1 unless a sink takes a share or the mechanism does not normalise.
    - `column_mass` (B, H, S): attention that a key receives, summed over the query rows.
    - `visible_rows` (B, H, S): how many valid query rows may see the key.
    - `distance` (B, H): |query - key| weighted by the attention, in tokens, mean over the valid rows.
    - `value_norm` (B, H, S): the Euclidean norm of each key's value, a shared value standing at each query head.
    - `value_weighted_norm` (B, H): sum over keys of attention times value norm (arXiv 2004.10102), mean over the
      valid rows.
    - `lse` (B, H, T): logarithm of the row's normaliser, nats; None where the mechanism has no such thing.
    - `rows` (B, H, R, S) and `columns` (B, H, T, C): the parts of the map that were asked for, else None.

    A query row that may see no key (padding) holds 0 everywhere, and is in no mean. Attention that does not sum to one
    is divided by its mass for `entropy` and `participation`, and for nothing else.
    """

    output: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor
    column_mass: Tensor
    visible_rows: Tensor
    distance: Tensor
    value_norm: Tensor
    value_weighted_norm: Tensor
    lse: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
