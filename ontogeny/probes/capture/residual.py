"""Hooks on the residual stream: the input of block 0 and the raw output of every block, reduced as the pass runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.trace import ResidualTrace

RANKS = 3


class ResidualRecorder:
    """Reduces the residual stream at every depth as it passes."""

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, valid: Tensor | None) -> None:
        """A pass begins, whose padding is where `valid` (B, T) is False; what an unfinished one left is dropped."""
        self.valid = valid
        self.length = 0
        self.depths: list[ResidualTrace] = []

    def record(self, hidden: Tensor) -> None:
        """The next depth: hidden (B, T, d)."""
        self.length = hidden.shape[1]
        self.depths.append(reduce_residual(hidden, self.valid))

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


def reduce_residual(hidden: Tensor, valid: Tensor | None = None) -> ResidualTrace:
    """The three largest magnitudes of each sequence, their places, and the lower median of all; hidden (B, T, d).

    In float32 at least: magnitudes above float16's range exist (arXiv 2402.17762). Of equal magnitudes (a token that
    comes again, at depth 0) the earliest place counts first. `valid` (B, T) leaves padding out.
    """
    size = hidden.abs() if hidden.dtype == torch.float64 else hidden.float().abs()
    if valid is not None:
        size = size.masked_fill(~valid[..., None], -1.0)
    if valid is None:
        median = size.flatten(1).median(dim=1).values
    else:
        median = torch.stack([row[keep].median() for row, keep in zip(size, valid, strict=True)])
    values, indices = _largest(size.flatten(1), RANKS)
    width = hidden.shape[-1]
    return ResidualTrace(
        top_activation=values,
        top_position=(indices // width).to(torch.int32),
        top_dimension=(indices % width).to(torch.int32),
        median_activation=median,
    )


def _largest(flat: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """Values and indices (B, ranks) of the largest of (B, n), which is overwritten; of equals the first."""
    found = []
    for _ in range(ranks):
        best = flat.max(dim=1, keepdim=True)
        found.append(best)
        flat.scatter_(1, best.indices, -1.0)
    return torch.cat([best.values for best in found], dim=1), torch.cat([best.indices for best in found], dim=1)
