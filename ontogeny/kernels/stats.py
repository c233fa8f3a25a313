"""What attention leaves behind besides its output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionStats:
    """One attention call's output and statistics; B sequences, H query heads, T queries, S keys.

    `output` (B, H, T, dv) is in the query's dtype. Everything else is float32; for float64 input,
    and from the reference implementation, float64:

    - `lse` (B, H, T): logarithm of the row's normaliser, nats.
    - `entropy` (B, H, T): of the row's distribution over its keys (and its sink logit, where there is one), nats.
    - `row_max` (B, H, T): the largest attention on a real key.
    - `participation` (B, H, T): 1 / sum of squared probabilities, in keys.
    - `mass` (B, H, T): attention on real keys; 1 unless a sink logit takes a share.
    - `column_mass` (B, H, S): attention that a key receives, summed over the query rows.
    - `visible_rows` (B, H, S): how many valid query rows may see the key.
    - `distance` (B, H): |query - key| under the attention, in tokens, mean over the valid rows.
    - `rows` (B, H, R, S) and `columns` (B, H, T, C): the parts of the map that were asked for, else None.

    A query row that may see no key (padding) holds 0 everywhere, and is in no mean.
    """

    output: Tensor
    lse: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor
    column_mass: Tensor
    visible_rows: Tensor
    distance: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None
