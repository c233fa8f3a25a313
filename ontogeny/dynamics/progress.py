"""What a scan tells of its progress. The command line draws it; in a program nothing is drawn."""

from __future__ import annotations


class Progress:
    """Called as a scan runs; every method may be overridden, and here does nothing."""

    def started(self, checkpoints: list[str], already: int, blocks: int, tokens: int) -> None:
        """A scan begins: the checkpoints to measure, how many were there already, blocks and tokens in each."""

    def note(self, text: str) -> None:
        """Something the user should know, which is no failure."""

    def checkpoint(self, name: str) -> None:
        """This checkpoint is fetched and read now."""

    def loaded(self) -> None:
        """The checkpoint is in memory, its measurement begins."""

    def block(self, index: int) -> None:
        """A forward pass has left this block."""

    def tokens(self, count: int) -> None:
        """So many more tokens have been measured."""

    def finished(self, name: str, failure: str | None) -> None:
        """The checkpoint is stored, or has failed for the reason given."""
