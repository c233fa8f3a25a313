"""Hooks on the residual stream: the input of block 0 and the raw output of every block, reduced as the pass runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.clusters import ClusterStream
from ontogeny.probes.capture.contexts import EqualTokens
from ontogeny.probes.capture.order import largest_and_median
from ontogeny.probes.capture.trace import ResidualTrace

RANKS = 3


class ResidualRecorder:
    """Reduces the residual stream at every depth as it passes."""

    def __init__(self, keep_entering: bool = False) -> None:
        """With `keep_entering` the states of the latest depth stay in memory, for the block that they enter."""
        self.keep_entering = keep_entering
        self.begin(None)

    def begin(
        self, valid: Tensor | None, equal: EqualTokens | None = None, clusters: ClusterStream | None = None
    ) -> None:
        """A pass begins, whose padding is where `valid` (B, T) is False; what an unfinished one left is dropped.

        With the pairs of `equal` tokens, the distances of their states are taken too, with `clusters` their geometry.
        """
        self.valid = valid
        self.equal = equal
        self.clusters = clusters
        self.length = 0
        self.depths: list[ResidualTrace] = []
        self.latest: Tensor | None = None

    def record(self, hidden: Tensor) -> None:
        """The next depth: hidden (B, T, d)."""
        self.length = hidden.shape[1]
        self.depths.append(reduce_residual(hidden, self.valid, self.equal, self.clusters))
        self.latest = hidden if self.keep_entering else None

    def entering(self, layer: int) -> Tensor | None:
        """The states (B, T, d) that enter block `layer`, whose attention runs; None where they are not kept.

        Raises OntogenyError where the latest depth is another.
        """
        if self.latest is not None and len(self.depths) != layer + 1:
            raise OntogenyError(
                f"the attention of block {layer} ran after {len(self.depths) - 1} block outputs, expected {layer}: "
                "what enters the block cannot be known; leave `logits` out"
            )
        return self.latest

    def finish(self, blocks: int) -> tuple[ResidualTrace, ...]:
        """All depths. Raises OntogenyError unless each of the blocks was seen once."""
        if len(self.depths) != blocks + 1:
            raise OntogenyError(
                f"{len(self.depths) - 1} block outputs were seen in one pass, expected {blocks}: "
                "the residual stream would be measured wrongly"
            )
        return tuple(self.depths)

    @contextmanager
    def hooked(self, blocks: list[nn.Module]) -> Iterator[None]:
        """Record depth 0 from the first block's input and depth i + 1 from block i's output, until the exit."""
        handles = [blocks[0].register_forward_pre_hook(self._before_first, with_kwargs=True)]
        handles += [block.register_forward_hook(self._after_block) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before_first(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.record(args[0] if args else kwargs["hidden_states"])

    def _after_block(self, _block: nn.Module, _args: Any, output: Any) -> None:
        self.record(output[0] if isinstance(output, tuple) else output)


def reduce_residual(
    hidden: Tensor,
    valid: Tensor | None = None,
    equal: EqualTokens | None = None,
    clusters: ClusterStream | None = None,
) -> ResidualTrace:
    """What a trace keeps of the residual stream at one depth; hidden (B, T, d).

    In float32 at least: magnitudes above float16's range exist (arXiv 2402.17762). Of equal magnitudes (a token that
    comes again, at depth 0) the earliest place counts first. `valid` (B, T) leaves padding out.
    """
    state = hidden if hidden.dtype == torch.float64 else hidden.float()
    size = state.abs()
    cosine = _first_cosine(state, size, valid)
    width, counted = hidden.shape[-1], None
    if valid is not None:
        size.masked_fill_(~valid[..., None], -1.0)
        counted = valid.sum(1) * width
    values, indices, median = largest_and_median(size.flatten(1), RANKS, counted)
    nearest, mean = (None, None) if equal is None else equal.distances(state)
    geometry, baseline = (None, None) if clusters is None else clusters.reduce(state)
    return ResidualTrace(
        top_activation=values,
        top_position=(indices // width).to(torch.int32),
        top_dimension=(indices % width).to(torch.int32),
        median_activation=median,
        first_cosine=cosine,
        saturated=values[:, 0] >= torch.finfo(hidden.dtype).max / 2,
        context_nearest=nearest,
        context_mean=mean,
        clusters=geometry,
        clusters_shuffled=baseline,
    )


def _first_cosine(state: Tensor, size: Tensor, valid: Tensor | None) -> Tensor:
    """The cosine (B, T) between each state and that of the first token; 0 where a state is zero, NaN at padding.

    `size` are the magnitudes of `state` (B, T, d).
    """
    tiny = torch.finfo(state.dtype).tiny
    scaled = state / size.amax(-1, keepdim=True).clamp_min(tiny)  # whose squares neither overflow nor vanish
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min(tiny)
    if valid is None:
        first = scaled[:, :1] / norm[:, :1]
    else:
        place = valid.int().argmax(1)[:, None, None]
        first = scaled.take_along_dim(place, 1) / norm.take_along_dim(place, 1)
    cosine = torch.linalg.vecdot(scaled, first) / norm[..., 0]
    return cosine if valid is None else cosine.masked_fill(~valid, torch.nan)
