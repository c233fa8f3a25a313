"""What one forward pass left behind, already reduced; B sequences of T tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

CAPTURED = "captured"
NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class AttentionTrace:
    """One layer's attention; H query heads, T keys, R sampled query rows.

    `column_mass` and `visible_rows` (B, H, T): see `AttentionStats`. `value_norm` (B, H, T): the Euclidean norm of each
    key's value, a shared value standing at each of its query heads. `entropy` (nats), `row_max`, `participation`
    (keys) and `distance` (tokens) are (B, H): means over the valid query rows. `support` (B, H, R): the least number of
    keys whose attention sums to 0.90 of the row; `row_length` (B, R): how many keys that row may see.
    """

    column_mass: Tensor
    visible_rows: Tensor
    value_norm: Tensor
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    distance: Tensor
    support: Tensor
    row_length: Tensor


@dataclass(frozen=True)
class ResidualTrace:
    """The residual stream at one depth, over all positions and dimensions of a sequence.

    `top_activation`, `top_position`, `top_dimension` (B, 3): the three largest magnitudes and where they sit, largest
    first; `median_activation` (B,): the lower median of the magnitudes.
    """

    top_activation: Tensor
    top_position: Tensor
    top_dimension: Tensor
    median_activation: Tensor


@dataclass(frozen=True)
class Trace:
    """One forward pass: `layers` holds L attention traces, `depths` L + 1 residual traces, or neither if not asked for.

    `attention` is `captured`, else `layers` is empty: `not asked for`, or `unavailable: ` and the reason.
    """

    layers: tuple[AttentionTrace, ...]
    depths: tuple[ResidualTrace, ...]
    attention: str
