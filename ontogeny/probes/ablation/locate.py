"""Where massive activations and sinks are: one pass over the corpus, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import ATTENTION, RESIDUAL, run_pass
from ontogeny.probes.capture.editing import editing_stream
from ontogeny.probes.loss import require_causal
from ontogeny.probes.massive import NONE, is_massive
from ontogeny.probes.scores import SinkScores, sink_scores
from ontogeny.probes.sinks import ACT_MULTIPLE

SINK_EPSILON = 0.3


@dataclass(frozen=True)
class Entries:
    """Scalars of the residual stream: `places` (E, 3), each a sequence, a position, a dimension; `values` (E,)."""

    places: Tensor
    values: Tensor

    def of(self, sequences: slice) -> tuple[Tensor, Tensor]:
        """The places in these sequences, counted from the first of them, and which of all entries they are."""
        which = (self.places[:, 0] >= sequences.start) & (self.places[:, 0] < sequences.stop)
        return self.places[which] - torch.tensor([sequences.start, 0, 0]), which


@dataclass(frozen=True)
class Sinks:
    """The keys (N, L, H, T) that an intervention takes for sinks, True at them: `strong` ones, and ACT's."""

    strong: Tensor
    act: Tensor


@dataclass(frozen=True)
class Located:
    """What a corpus shows of a model.

    `massive` are all massive activations at `depth`, where they first appear in the most sequences; it is NONE where no
    sequence has any. `sinks` is None where the attention could not be seen, and `attention` tells why.
    """

    depth: int
    massive: Entries
    sinks: Sinks | None
    attention: str


@dataclass(frozen=True)
class _Part:
    sequences: int
    depths: list[Entries]
    sinks: Sinks | None
    attention: str


def locate(model: PreTrainedModel, batches: Batches, impl: str) -> Located:
    """Go through the corpus once. Raises UnavailableError for a model that is no causal language model."""

    def run(batch: Tensor) -> _Part:
        depths: list[Entries] = []

        def keep(_depth: int, hidden: Tensor) -> Tensor:
            depths.append(massive_entries(hidden))
            return hidden

        with editing_stream(model, keep):
            trace = run_pass(model, batch, needs={ATTENTION, RESIDUAL}, impl=impl)
        require_causal(model, trace)
        sinks = find_sinks(sink_scores(trace)) if trace.layers else None
        return _Part(len(batch), depths, sinks, trace.attention)

    parts = batches.each(run)
    by_depth = [_joined([part.depths[depth] for part in parts], parts) for depth in range(len(parts[0].depths))]
    depth = first_depth(by_depth)
    there = [part.sinks for part in parts if part.sinks is not None]
    sinks = Sinks(torch.cat([one.strong for one in there]), torch.cat([one.act for one in there])) if there else None
    return Located(depth, by_depth[depth], sinks, parts[0].attention)


def massive_entries(hidden: Tensor) -> Entries:
    """All scalars of hidden (B, T, d) that meet Sun's criterion in their sequence (arXiv 2402.17762, section 2)."""
    state = hidden if hidden.dtype == torch.float64 else hidden.float()
    size = state.abs()
    median = size.flatten(1).median(dim=1).values
    there = is_massive(size, median[:, None, None])
    return Entries(there.nonzero().cpu(), state[there].double().cpu())


def find_sinks(scores: SinkScores) -> Sinks:
    """Of the scores (B, L, H, T): eligible keys above 0.3; keys above 5 / T, the first left out (arXiv 2406.15765)."""
    act = scores.alpha > ACT_MULTIPLE / scores.alpha.shape[-1]
    act[..., 0] = False
    return Sinks(((scores.alpha > SINK_EPSILON) & scores.eligible).cpu(), act.cpu())


def first_depth(depths: Sequence[Entries]) -> int:
    """The depth at which entries first appear in the most sequences, of equal ones the smallest; NONE without any."""
    seen = torch.empty(0, dtype=torch.long)
    most, found = 0, NONE
    for depth, entries in enumerate(depths):
        sequences = entries.places[:, 0].unique()
        new = sequences[~torch.isin(sequences, seen)]
        if len(new) > most:
            most, found = len(new), depth
        seen = torch.cat([seen, new])
    return found


def _joined(entries: Sequence[Entries], parts: Sequence[_Part]) -> Entries:
    starts = torch.tensor([0, *(part.sequences for part in parts[:-1])]).cumsum(0)
    places = [one.places + torch.tensor([start, 0, 0]) for one, start in zip(entries, starts.tolist(), strict=True)]
    return Entries(torch.cat(places), torch.cat([one.values for one in entries]))
