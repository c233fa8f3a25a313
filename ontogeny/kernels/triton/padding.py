"""Where a sequence's tokens lie among its padding, so that the kernels mask only the tiles that need it."""

from __future__ import annotations

import torch
from torch import Tensor


def spans(mask: Tensor) -> Tensor:
    """From `mask` (B, S), int32 (B, 3): the first token, the place after the last, and the last place of a run.

    The third is the second where all places between are tokens, else the first: nothing is then known to be whole.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    end = torch.where(mask, places + 1, 0).amax(1)
    first = torch.minimum(torch.where(mask, places, mask.shape[1]).amin(1), end)
    whole = torch.where(mask.sum(1) == end - first, end, first)
    return torch.stack([first, end, whole], 1).int()
