"""The sequences of a corpus, so many at a time as memory lets through."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.memory import is_out_of_memory

Result = TypeVar("Result")

TOKENS_A_PASS = 4096


class Batches:
    """Token ids (N, T), of which `size` sequences at a time go to `device`.

    Where memory does not suffice for so many, the batch is halved, down to one sequence, which `note` is told; `size`
    is then the number that was gone through with.
    """

    def __init__(
        self, ids: Tensor, size: int, device: torch.device, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.ids, self.size, self.device, self._note = ids, size, device, note

    def each(self, run: Callable[[Tensor], Result]) -> list[Result]:
        """What `run` makes of each batch (B, T), in order.

        Raises OntogenyError where memory does not suffice for one sequence.
        """
        results: list[Result] = []
        start = 0
        while start < len(self.ids):
            batch = self.ids[start : start + self.size]
            try:
                results.append(run(batch.to(self.device)))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(batch))
            else:
                start += len(batch)
                continue
            _release(self.device)
        return results

    def _halve(self, size: int) -> None:
        if size == 1:
            raise OntogenyError(
                f"memory of {self.device} does not suffice for one sequence: use --length with a smaller number, "
                "--dtype bfloat16, or another --device"
            ) from None
        self.size = size // 2
        self._note(f"memory of {self.device} does not suffice for {size} sequences a pass: going on with {self.size}")


def _release(device: torch.device) -> None:
    """Give back what the failed pass held; called when its exception, which holds the pass's tensors, is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
