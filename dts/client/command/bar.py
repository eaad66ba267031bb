"""A bar on a terminal that shows how far a run is."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from dts.client.command.report import estimate_total
from dts.client.components import DataSource
from dts.client.run.progress import Progress

_REFRESHES = 4  # a second


class ProgressBar:
    """Shows on stderr how far a run is until it is left; `progress` gives what to show, `held_by` what it waits for.

    The bar reads them at every refresh, so the run does nothing for it.
    """

    def __init__(
        self, progress: Callable[[], Progress], source: DataSource, description: str, held_by: Callable[[], str]
    ) -> None:
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Lines(progress, source, held_by),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=_REFRESHES,
            transient=True,
        )
        self._bar.add_task(description, total=None)

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(Text(sentence))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _Lines(ProgressColumn):
    """Lines done of all, their rate, failures and what holds them up; keeps the task's own numbers in step."""

    def __init__(self, progress: Callable[[], Progress], source: DataSource, held_by: Callable[[], str]) -> None:
        super().__init__(table_column=Column(no_wrap=True))  # on a narrow terminal it is the bar that gives way
        self._progress = progress
        self._source = source
        self._held_by = held_by

    def render(self, task: Task) -> Text:
        """What the column shows."""
        progress = self._progress()
        total = estimate_total(progress, self._source)
        task.total = total
        task.completed = progress.done
        of = "" if total is None else f"/{'' if progress.all_read else '~'}{total:,}"
        text = Text(f"{progress.done:,}{of} lines  {progress.rate:,.0f}/s")
        if progress.failed:
            text.append(f"  {progress.failed:,} failed", style="red")
        if progress.counts:
            text.append(f"  {progress.running:,} running, {progress.queued:,} waiting", style="dim")
        if self._held_by():
            text.append("  held by a limit", style="yellow")
        return text
