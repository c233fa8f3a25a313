"""By what a head chooses its sink at position 0: its token, its position's encoding, or the causal order.

Sinks whose values drain are also known as value-state drains and extreme-token phenomena (arXiv 2410.13835), and as
waivers (arXiv 2407.01601).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.kernels.attention import Implementation
from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import Trace
from ontogeny.probes.exchange import Encodings, Exchange, find_exchange
from ontogeny.probes.experiment import UnavailableError
from ontogeny.probes.probe import ProbeSettings, mean_where, variable
from ontogeny.probes.scores import rows_needed, sink_scores
from ontogeny.probes.waivers import WAIVER_EPSILON

FARTHEST_SLOT = 8
FOLLOWED_ABOVE, STAYED_BELOW = 0.8, 0.2

SWAPS = ("token", "position", "both")
OUTCOMES = ("followed", "stayed", "inconclusive")
FOLLOWED, STAYED, INCONCLUSIVE = range(3)
NOT_TRIED = -1
NONE, FEATURE, POSITIONAL, CAUSAL_ORDER, UNDETERMINED = range(5)
KIND_MEANINGS = "none feature positional causal_order undetermined"

PAPER = "2407.01601"


@dataclass(frozen=True)
class WaiverKindsExperiment:
    """Exchanges tokens, position encodings or both of position 0 and a slot m, and sees where each sink goes."""

    settings: ProbeSettings

    def run(self, model: PreTrainedModel, batches: Batches, impl: str = "auto") -> xr.Dataset:
        """The variables of `waiver_kinds` in docs/dataset.md, over the sequences in which a head has its sink at 0.

        Raises UnavailableError where the sequences are too short, the attention is not seen, or layers differ in heads.
        """
        length = batches.ids.shape[1]
        slot = slot_of(length)
        one = Batches(batches.ids[:1], 1, batches.device)
        [(exchange, encodings)] = one.each(lambda ids: find_exchange(model, ids, slot, cast(Implementation, impl)))
        parts = batches.each(lambda ids: _outcomes(exchange, encodings, ids))
        sinks, outcomes = (np.concatenate([part[name] for part in parts]) for name in ("sink", "outcome"))
        kinds = np.where(sinks, decide(outcomes, encodings, parts[0]["ordered"]), NONE)
        return _dataset(kinds, outcomes, encodings, slot)


def slot_of(length: int) -> int:
    """The slot m: 8, or a quarter of the tokens, or fewer where not rows enough would be left from it on.

    Raises UnavailableError where even slot 1 leaves too few.
    """
    needed = int(rows_needed(torch.tensor(length)))
    slot = min(FARTHEST_SLOT, length // 4, length - needed)
    if slot < 1:
        raise UnavailableError(f"expected sequences of at least {needed + 1} tokens, got {length}: use --length")
    return slot


def decide(outcomes: np.ndarray, encodings: Encodings, ordered: np.ndarray) -> np.ndarray:
    """The kind that each sequence speaks for, outcomes (S, 3, L, H) in the order of SWAPS -> (S, L, H).

    `ordered` (L,) tells the layers in which, or before which, keys are hidden causally. Without encodings a key is its
    token and its place in the causal order, and the token alone decides; where encodings are fixed, a sink that stays
    may have been chosen by either of the others.
    """
    token, position, both = np.moveaxis(outcomes, 1, 0)
    by_token, by_position, stays = token == FOLLOWED, position == FOLLOWED, token == STAYED
    if encodings is Encodings.EXCHANGED:
        moves = both != STAYED
        by_token, by_position = by_token & ~by_position & moves, by_position & ~by_token & moves
        stays &= (position == STAYED) & (both == STAYED)
    stays &= ordered[:, None] & (encodings is not Encodings.FIXED)
    return np.select([by_token, by_position, stays], [FEATURE, POSITIONAL, CAUSAL_ORDER], UNDETERMINED)


def most_frequent(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kind that most of axis 0 speak for, the share of them that do, and how many speak; those of no kind do not.

    A tie is undetermined; where nobody speaks the kind is none and the share NaN.
    """
    counts = np.stack([(kinds == kind).sum(axis=0) for kind in range(UNDETERMINED + 1)])
    counts[NONE] = 0
    total, most = counts.sum(axis=0), counts.max(axis=0)
    kind = np.where((counts == most).sum(axis=0) > 1, UNDETERMINED, counts.argmax(axis=0))
    kind = np.where(total > 0, kind, NONE)
    agreeing = np.take_along_axis(counts, kind[None], axis=0)[0]
    share = np.divide(agreeing, total, out=np.full(np.shape(total), np.nan), where=total > 0)
    return kind.astype(np.int8), share, total


def _outcomes(exchange: Exchange, encodings: Encodings, ids: Tensor) -> Mapping[str, np.ndarray]:
    """Of a batch: `sink` (B, L, H), whether a head has its sink at 0, and `outcome` (B, 3, L, H) of each swap.

    `ordered` (L,): see `decide`.
    """
    before = exchange.run(ids)
    heads = sorted({layer.column_mass.shape[1] for layer in before.layers})
    if len(heads) > 1:
        raise UnavailableError(f"the layers have between {heads[0]} and {heads[-1]} heads, expected the same number")
    scores = sink_scores(before)
    seen = scores.visible[0, :, 0]  # (L, T), without padding the same in every sequence and head
    comparable = seen[:, 0] - exchange.slot >= rows_needed(torch.tensor(exchange.length))
    unmoved = _score(before, exchange.slot) == STAYED

    def after(**changes: bool) -> Tensor:
        return _score(exchange.run(ids, **changes), exchange.slot).where(unmoved, INCONCLUSIVE)

    exchanged = after(tokens=True)
    # Exchanging equal tokens changes nothing, so that nothing follows from where the sink is.
    exchanged[ids[:, 0] == ids[:, exchange.slot]] = INCONCLUSIVE
    found = [exchanged, *[torch.full_like(exchanged, NOT_TRIED)] * 2]
    if encodings is Encodings.EXCHANGED:
        found[1:] = [after(encodings=True), after(tokens=True, encodings=True)]
    causal = seen[:, -1] < exchange.length
    return {
        "sink": ((scores.alpha[..., 0] > WAIVER_EPSILON) & comparable[:, None]).cpu().numpy(),
        "outcome": torch.stack(found, dim=1).cpu().numpy(),
        "ordered": (causal.cumsum(0) > 0).cpu().numpy(),
    }


def _score(trace: Trace, slot: int) -> Tensor:
    """Where the attention on keys 0 and `slot` lies, FOLLOWED, STAYED or INCONCLUSIVE: (B, L, H).

    The mean is over the rows that may see both keys: those from `slot` on, and in a window before it has left key 0.
    """
    pairs = []
    for layer in trace.layers:
        assert layer.columns is not None
        rows = slice(slot, max(int(layer.visible_rows[0, 0, 0]), slot + 1))
        pairs.append(layer.columns[:, :, rows].mean(dim=2))
    at_first, at_slot = torch.stack(pairs, dim=1).unbind(-1)
    both = at_first + at_slot
    share = at_slot / both
    outcome = torch.full_like(share, INCONCLUSIVE, dtype=torch.int8)
    outcome[share > FOLLOWED_ABOVE] = FOLLOWED
    outcome[share < STAYED_BELOW] = STAYED
    return outcome.masked_fill(both < WAIVER_EPSILON, INCONCLUSIVE)  # the sink has gone from both


def _dataset(kinds: np.ndarray, outcomes: np.ndarray, encodings: Encodings, slot: int) -> xr.Dataset:
    """The variables, of kinds (S, L, H) and outcomes (S, 3, L, H)."""
    kind, confidence, sequences = most_frequent(kinds)
    model_kind, model_confidence, _ = most_frequent(kinds.reshape(-1))
    sink, tried = (kinds != NONE)[:, None], outcomes != NOT_TRIED
    shares = np.stack([mean_where(sink & tried, outcomes == outcome) for outcome in range(len(OUTCOMES))])
    flags = {"flag_values": list(range(UNDETERMINED + 1)), "flag_meanings": KIND_MEANINGS}
    where = "layer head"
    variables = {
        "waiver_kind": variable(where, kind, "by what the head chooses its sink at position 0", "1", PAPER, **flags),
        "waiver_kind_confidence": variable(
            where, confidence, "share of the sequences with a sink that speak for the kind", "1", PAPER
        ),
        "waiver_kind_sequences": variable(where, sequences, "sequences in which the head has a sink", "1", PAPER),
        "waiver_kind_share": variable(
            f"outcome swap {where}", shares, "share of the sequences with a sink by where it went", "1", PAPER
        ),
        "waiver_kind_of_model": variable(
            "", model_kind, "by what most heads choose their sinks at position 0", "1", PAPER, **flags
        ),
        "waiver_kind_of_model_confidence": variable(
            "", model_confidence, "share of all heads' sequences with a sink that speak for the kind", "1", PAPER
        ),
        "waiver_kind_encodings": variable(
            "",
            np.array(encodings, dtype=np.int8),
            "whether position encodings could be exchanged",
            "1",
            PAPER,
            flag_values=[int(one) for one in Encodings],
            flag_meanings=" ".join(one.name.lower() for one in Encodings),
        ),
    }
    _, layers, heads = kinds.shape
    coordinates = {
        "layer": np.arange(layers),
        "head": np.arange(heads),
        "swap": np.array(SWAPS, dtype=object),
        "outcome": np.array(OUTCOMES, dtype=object),
    }
    constants = {
        "waiver_kind_slot": slot,
        "waiver_kind_epsilon": WAIVER_EPSILON,
        "waiver_kind_bounds": [STAYED_BELOW, FOLLOWED_ABOVE],
    }
    return xr.Dataset(variables, coordinates, constants)
