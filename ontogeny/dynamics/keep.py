"""Which of the files that a scan downloads stay on disk.

A scan reads its policy once and tells it of each checkpoint that it is done with, measured or failed, in any order:

    keep = Keep.parse("none")
    keep.done(checkpoint)

What was fetched ahead and then not needed, because the scan was interrupted, is done with too. The model has to be gone
by then: a file that is still mapped into memory keeps its room. What an earlier process downloaded, such as an
interrupted scan that is gone on with, counts as there before, and stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.errors import UsageError


@dataclass
class Keep:
    """Keeps what was downloaded for the last `limit` checkpoints that a scan is done with; None: for all of them."""

    limit: int | None = None
    _releases: deque[Callable[[], None]] = field(default_factory=deque, repr=False)

    @classmethod
    def parse(cls, policy: str | int) -> Keep:
        """The policy that `none`, `all` or a number of checkpoints stands for. Raises UsageError for anything else."""
        known, text = {"none": 0, "all": None}, str(policy)
        if text in known:
            return cls(known[text])
        if text.isascii() and text.isdigit():
            return cls(int(text))
        raise UsageError(f"cannot keep {policy!r}: expected none, all, or a number of checkpoints such as 2")

    def done(self, checkpoint: Checkpoint) -> None:
        """Take note of `checkpoint`, and release the one that falls out: it, or the one longest done with.

        Raises OntogenyError where files cannot be removed: they stay, and nothing else is the worse for it.
        """
        if self.limit is None or checkpoint.release is None:
            return
        self._releases.append(checkpoint.release)
        if len(self._releases) > self.limit:
            self._releases.popleft()()
