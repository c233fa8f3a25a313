"""How far a head's attention logits follow the inner products of the states that enter its block.

In the self-attention model (arXiv 2312.10794) the logit of a pair of tokens is beta <x_i, x_j>, x their states on the
unit sphere. Of a trained head the least-squares slope of the one on the other is an effective beta. Both are centred in
each row, since softmax does not see what a row has in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.probes.capture.selection import selections
from ontogeny.probes.capture.sphere import directions

LEAST_SPREAD = 1e-6  # of inner products in a row; closer ones are equal but for the rounding of float32 states
MASS_TOLERANCE = 0.02  # of a softmax row's sum, maps in bfloat16 included
_LOGITS_AT_ONCE = 2**20

OfRows = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LogitSlopes:
    """Slopes of logits on inner products and their r2, (B, S, H) over the S selections of tokens."""

    slope: Tensor
    r2: Tensor


@dataclass(frozen=True)
class EnteringStates:
    """The states that enter a block: their directions (B, T, d) in float64, and which tokens count, bool (S, B, T)."""

    direction: Tensor
    selected: Tensor

    @classmethod
    def of(cls, state: Tensor, valid: Tensor | None) -> EnteringStates:
        """Of raw states (B, T, d), padding where `valid` (B, T) is False; a state that is 0 has the direction 0."""
        wide = state.double()
        if valid is not None:
            wide = wide.masked_fill(~valid[..., None], 0)
        return cls(directions(wide), selections(state, valid))

    def slopes(self, logits: OfRows, seen: OfRows, heads: int) -> LogitSlopes:
        """The slope of each sequence and head, over all pairs of a query and another key that it sees.

        Of query rows (R,), `logits` gives (B, H, R, T) and `seen`, bool, (B, H or 1, R, T); both are asked for some
        rows at a time. A row counts that sees other keys between whose inner products there is a difference, so 2 at
        least. NaN where no row counts, and r2 too where the logits of every row are equal.
        """
        batch, length, _ = self.direction.shape
        sums = self.direction.new_zeros(3, batch, len(self.selected), heads)
        every = torch.arange(length, device=self.direction.device)
        for rows in every.split(max(1, _LOGITS_AT_ONCE // (batch * heads * length))):
            others = seen(rows) & (rows[:, None] != every)
            end = max(1, int((others.flatten(0, -2).any(0) * (every + 1)).amax()))  # of the keys that some row sees
            inner = (self.direction[:, rows] @ self.direction[:, :end].mT)[:, None]
            logit, others = logits(rows)[..., :end].double(), others[..., :end]
            for place, chosen in enumerate(self.selected):
                pairs = others & chosen[:, None, rows, None] & chosen[:, None, None, :end]
                x, y = _centred(inner, pairs), _centred(logit, pairs)
                x = x * (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) > LEAST_SPREAD)
                y = y * (x != 0).any(-1, keepdim=True)
                for total, product in zip(sums[:, :, place], (x * x, x * y, y * y), strict=True):
                    total += product.sum((-1, -2))
        xx, xy, yy = sums
        slope = torch.where(xx > 0, xy / xx, torch.nan)
        return LogitSlopes(slope, torch.where(yy > 0, slope * xy / yy, torch.nan))


def _centred(values: Tensor, pairs: Tensor) -> Tensor:
    """Values (..., T) less their mean over the `pairs` of each row; 0 elsewhere."""
    mean = values.masked_fill(~pairs, 0).sum(-1, keepdim=True) / pairs.sum(-1, keepdim=True).clamp_min(1)
    return (values - mean).masked_fill(~pairs, 0)


def slopes_of_map(attention: Tensor, seen: Tensor, sink: Tensor | None, states: EnteringStates) -> LogitSlopes:
    """The slopes where softmax attention (B, H, T, T) is all there is: its logarithm is the logit but for a row's own.

    `seen`, bool (B, H, T, T), tells what a query may see; `sink` (B, H, T, 1) is the share of a sink logit. NaN for a
    sequence and head whose map is not known to be that of a softmax: some row and its sink do not sum to 1, or a key
    that is seen got 0, so that its logit is lost.
    """
    mass = attention.sum(-1, keepdim=True) if sink is None else attention.sum(-1, keepdim=True) + sink
    whole = ((mass - 1).abs() <= MASS_TOLERANCE) | ~seen.any(-1, keepdim=True)
    known = (whole & ((attention > 0) | ~seen)).all(-1).all(-1)[:, None]
    logits = attention.masked_fill(attention <= 0, 1).log()
    found = states.slopes(lambda rows: logits[:, :, rows], lambda rows: seen[:, :, rows], attention.shape[1])
    return LogitSlopes(*(torch.where(known, one, torch.nan) for one in (found.slope, found.r2)))
