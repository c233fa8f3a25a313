"""The progress of a scan or a simulation, drawn on stderr."""

from __future__ import annotations

from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ontogeny.dynamics.progress import Progress as ScanProgress


class DrawnProgress(ScanProgress):
    """A bar: the checkpoint in work, how many are done, the block, tokens a second, and the time that is left.

    Where stderr is no terminal there is no bar, but a line for each checkpoint.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[done]}/{task.fields[checkpoints]}"),
            TextColumn("block {task.fields[block]}/{task.fields[blocks]}"),
            TextColumn("{task.fields[rate]} tok/s"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("", visible=False, done=0, checkpoints=0, block=0, blocks=0, rate="-")
        self._tokens_in_each = self._measured = self._done = self._total = 0
        self._since = self._busy = 0.0

    def __enter__(self) -> DrawnProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def started(self, checkpoints: list[str], already: int, blocks: int, tokens: int) -> None:
        if already:
            self.note(f"measured before and kept: {already}")
        self._total, self._tokens_in_each = len(checkpoints), tokens
        self._bar.update(
            self._task, total=len(checkpoints) * tokens, checkpoints=len(checkpoints), blocks=blocks, visible=True
        )

    def note(self, text: str) -> None:
        self._console.print(f"[yellow]note:[/] {escape(text)}")

    def checkpoint(self, name: str) -> None:
        self._bar.update(self._task, description=escape(name), block=0)

    def loaded(self) -> None:
        self._since = monotonic()

    def block(self, index: int) -> None:
        self._bar.update(self._task, block=index + 1)

    def tokens(self, count: int) -> None:
        now = monotonic()
        self._measured += count
        self._busy += now - self._since
        self._since = now
        self._bar.update(self._task, advance=count, rate=f"{self._measured / max(self._busy, 1e-9):,.0f}")

    def finished(self, name: str, failure: str | None) -> None:
        self._done += 1
        self._bar.update(self._task, done=self._done, completed=self._done * self._tokens_in_each)
        if failure is not None:
            self._console.print(f"[red]failed:[/] {escape(name)}: {escape(failure)}")
        elif not self._console.is_terminal:
            self._console.print(f"measured {escape(name)} ({self._done}/{self._total})")


class SimulationProgress:
    """A bar: the share of the recorded times that is done; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("simulating", total=None)

    def __enter__(self) -> SimulationProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def done(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
