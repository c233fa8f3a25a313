"""What forward passes left behind, already reduced; B sequences of T tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError

ATTENTION = "attention"
RESIDUAL = "residual"
VALUES = "values"
CONTEXTS = "contexts"
WALKS = "walks"
CLUSTERS = "clusters"
LOGITS = "logits"

CAPTURED = "captured"
NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class AttentionTrace:
    """One layer's attention; H query heads, T keys, R sampled query rows.

    `column_mass` and `visible_rows` (B, H, T): see `AttentionStats`. `value_norm` (B, H, T): the Euclidean norm of each
    key's value, a shared value standing at each of its query heads; None for arrays that came without values. `entropy`
    (nats), `row_max`, `participation` (keys), `mass`, `distance` (tokens) and `first_share`, the attention on the
    sequence's first token, are (B, H): means over the query rows that see a key.

    `support` (B, H, R): the least number of keys whose attention sums to 0.90 of the row; `row_length` (B, H, R): how
    many keys that row may see, 0 where a sequence has no such row. `tokens` (B,): how many tokens of the sequence are
    no padding.

    `update_norm` (B, H, T): the norm of W_O v of each key and query head, None where the output projection cannot be
    seen. The rest is None unless it was asked for: `map` (B, H, T, T), the attention of each query to each key;
    `columns` (B, H, T, C), that to some keys; `walk_entropy` (B, H, M), see `probes.capture.walks`; `logit_slope` and
    `logit_r2` (B, S, H), see `probes.capture.logits`.
    """

    column_mass: Tensor
    visible_rows: Tensor
    value_norm: Tensor | None
    entropy: Tensor
    row_max: Tensor
    participation: Tensor
    mass: Tensor
    distance: Tensor
    first_share: Tensor
    support: Tensor
    row_length: Tensor
    tokens: Tensor
    update_norm: Tensor | None = None
    map: Tensor | None = None
    columns: Tensor | None = None
    walk_entropy: Tensor | None = None
    logit_slope: Tensor | None = None
    logit_r2: Tensor | None = None


@dataclass(frozen=True)
class ClusterTrace:
    """The geometry of the states at one depth, for each selection of tokens (B, S); see `probes.capture.clusters`.

    `energy` (B, S, 4), by beta; `count` and `persistence` (B, S, 3), by threshold; all else (B, S). These three are of
    the pairs of `paired` tokens, which are the selection's `tokens` or those of a sample, the rest of all its tokens.
    NaN where these are fewer than two; `persistence` also at the first depth.
    """

    tokens: Tensor
    paired: Tensor
    mean_cosine: Tensor
    energy: Tensor
    count: Tensor
    persistence: Tensor
    matrix_entropy: Tensor
    anisotropy: Tensor
    effective_rank: Tensor


@dataclass(frozen=True)
class ResidualTrace:
    """The residual stream at one depth, over all positions and dimensions of a sequence.

    `top_activation`, `top_position`, `top_dimension` (B, 3): the three largest magnitudes and where they sit, largest
    first; `median_activation` (B,): the lower median of the magnitudes. `first_cosine` (B, T): the cosine between the
    state of each token and that of the sequence's first, NaN at padding. `saturated` (B,): whether the largest
    magnitude is at least half of the largest number of the states' dtype, so that a sum of two would overflow.

    None unless asked for: `context_nearest` and `context_mean` (B,), see `probes.capture.contexts`; `clusters`, and
    `clusters_shuffled` of its baseline.
    """

    top_activation: Tensor
    top_position: Tensor
    top_dimension: Tensor
    median_activation: Tensor
    first_cosine: Tensor
    saturated: Tensor
    context_nearest: Tensor | None = None
    context_mean: Tensor | None = None
    clusters: ClusterTrace | None = None
    clusters_shuffled: ClusterTrace | None = None


@dataclass(frozen=True)
class Pass:
    """One forward pass on B sequences of `length` tokens; the fields are those of `Trace`."""

    length: int
    layers: tuple[AttentionTrace, ...]
    depths: tuple[ResidualTrace, ...]
    attention: str
    updates: str = NOT_ASKED
    ids: Tensor | None = None
    residual: str = NOT_ASKED


class Trace:
    """The passes captured so far, joined along the sequences.

    `layers` holds L attention traces and `depths` L + 1 residual traces; either is empty where it was not asked for.
    `attention` is `captured`, else `layers` is empty: `not asked for`, or `unavailable: ` and the reason. `updates`
    tells the same of the `update_norm` of the layers, and `residual` of `depths`. `length` is T. `ids` (B, T) are the
    token ids, None for a model that was given none. `notes` are facts about the model that a dataset made of the trace
    carries as attributes.

    Reading a trace without a pass raises OntogenyError.
    """

    def __init__(self, passes: Iterable[Pass] = (), notes: Mapping[str, str] | None = None) -> None:
        self.notes = dict(notes or {})
        self._passes: list[Pass] = []
        for one in passes:
            self.add(one)

    def add(self, one: Pass) -> None:
        """Append a pass. Raises OntogenyError where its sequences are not as long as those before."""
        if self._passes and one.length != self._passes[0].length:
            raise OntogenyError(
                f"this pass has {one.length} tokens a sequence, those captured before have {self._passes[0].length}: "
                "expected one length in a trace; open another capture for it (generate() cannot be captured)"
            )
        self._passes.append(one)

    @property
    def layers(self) -> tuple[AttentionTrace, ...]:
        """One attention trace a layer, or none."""
        return self._joined().layers

    @property
    def depths(self) -> tuple[ResidualTrace, ...]:
        """One residual trace a depth, or none."""
        return self._joined().depths

    @property
    def attention(self) -> str:
        """Whether `layers` is there, or why not."""
        return self._joined().attention

    @property
    def updates(self) -> str:
        """Whether the norms of W_O v are there, or why not."""
        return self._joined().updates

    @property
    def residual(self) -> str:
        """Whether `depths` is there, or why not."""
        return self._joined().residual

    @property
    def ids(self) -> Tensor | None:
        """The token ids (B, T), None where some pass was given none."""
        return self._joined().ids

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        return self._joined().length

    @property
    def available(self) -> frozenset[str]:
        """What probes find in this trace: some of the names that `needs` may hold."""
        joined = self._joined()
        there = {
            ATTENTION: bool(joined.layers),
            VALUES: bool(joined.layers) and joined.layers[0].value_norm is not None,
            RESIDUAL: bool(joined.depths),
            CONTEXTS: bool(joined.depths) and joined.depths[0].context_nearest is not None,
            WALKS: bool(joined.layers) and joined.layers[0].walk_entropy is not None,
            CLUSTERS: bool(joined.depths) and joined.depths[0].clusters is not None,
            LOGITS: bool(joined.layers) and joined.layers[0].logit_slope is not None,
        }
        return frozenset(name for name, found in there.items() if found)

    def __repr__(self) -> str:
        if not self._passes:
            return "Trace(no pass yet)"
        one = self._joined()
        sequences = len(one.layers[0].entropy if one.layers else one.depths[0].median_activation)
        return f"Trace({sequences} sequences of {one.length} tokens, attention: {one.attention})"

    def _joined(self) -> Pass:
        if not self._passes:
            raise OntogenyError(
                "the trace is empty: no forward pass has come to its end inside `with ontogeny.capture(model)`; "
                "run the model there, on whole sequences"
            )
        if len(self._passes) > 1:
            self._passes = [_join(self._passes)]
        return self._passes[0]


def _join(passes: Sequence[Pass]) -> Pass:
    first = passes[0]
    return Pass(
        length=first.length,
        layers=tuple(_concatenate(parts) for parts in zip(*(one.layers for one in passes), strict=True)),
        depths=tuple(_concatenate(parts) for parts in zip(*(one.depths for one in passes), strict=True)),
        attention=first.attention,
        updates=next((one.updates for one in passes if one.updates != CAPTURED), CAPTURED),
        ids=_along_sequences([one.ids for one in passes]),
        residual=first.residual,
    )


_Part = TypeVar("_Part", AttentionTrace, ResidualTrace, ClusterTrace)


def _concatenate(parts: Sequence[_Part]) -> _Part:
    joined: dict[str, Any] = {
        field.name: _along_sequences([getattr(part, field.name) for part in parts]) for field in fields(parts[0])
    }
    return type(parts[0])(**joined)


def _along_sequences(values: Sequence[Any]) -> Any:
    """Tensors, or traces of them, joined along the sequences; None where some are None."""
    if any(value is None for value in values):
        return None
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else _concatenate(values)
