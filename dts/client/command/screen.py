"""What a command says while a run goes on."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from dts.client.client import DtsClient
from dts.client.command.report import as_record, describe, final_record
from dts.client.components import DataSource, FileComponent, IterableComponent
from dts.client.stdio import tell

KINDS = ("bar", "line", "json", "none")
"""What `--progress` may be: a bar, a line of text now and then, a record a second, nothing."""

LINE_INTERVAL = 10.0
"""Seconds between two lines of text: few enough for a log."""

RECORD_INTERVAL = 1.0
"""Seconds between two records, for a program that draws something of its own."""


def kind_of(options: argparse.Namespace) -> str:
    """What is shown: as the command line says, else a bar on a terminal and lines of text elsewhere."""
    if options.progress is not None:
        return str(options.progress)
    return "none" if options.quiet else "bar" if sys.stderr.isatty() else "line"


class Screen:
    """Where sentences for the user go: stderr, above the progress bar when there is one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._print: Callable[[str], None] = tell
        self._kind = kind_of(options)

    @property
    def is_for_programs(self) -> bool:
        """Whether records are shown, and nothing beside them but what went wrong."""
        return self._kind == "json"

    @property
    def watches(self) -> bool:
        """Whether it is to be known what the run waits for."""
        return self._kind != "none" and not self._options.detach

    @asynccontextmanager
    async def progress(self, client: DtsClient, source: FileComponent | None) -> AsyncIterator[None]:
        """Show how far the run is meanwhile, if that is wanted."""
        known = source or IterableComponent(())
        match self._kind:
            case "none":
                yield
            case "bar":
                async with self._bar(client, known):
                    yield
            case "line":
                async with _repeated(LINE_INTERVAL, lambda: tell(self._line(client, known))):
                    yield
            case _:
                async with _repeated(RECORD_INTERVAL, lambda: self._tell_record(client, known)):
                    yield

    @asynccontextmanager
    async def _bar(self, client: DtsClient, source: DataSource) -> AsyncIterator[None]:
        from dts.client.command.bar import ProgressBar  # rich takes long to import and is not always needed

        with ProgressBar(lambda: client.progress, source, self._options.function, lambda: client.held_by) as bar:
            self._print = bar.say
            try:
                yield
            finally:
                self._print = tell

    def _line(self, client: DtsClient, source: DataSource) -> str:
        return f"dts-client: {describe(client.progress, source, client.held_by)}"

    def _tell_record(self, client: DtsClient, source: DataSource) -> None:
        tell(json.dumps(as_record(client.progress, source, client.held_by)))

    def conclude(self, client: DtsClient, source: DataSource | None) -> None:
        """Show the last record."""
        tell(json.dumps(final_record(client.progress, source or IterableComponent(()))))

    def say(self, sentence: str) -> None:
        """Say something that the user should know."""
        self._print(json.dumps({"message": sentence}) if self.is_for_programs else f"dts-client: {sentence}")


@asynccontextmanager
async def _repeated(interval: float, call: Callable[[], None]) -> AsyncIterator[None]:
    """Make a call every `interval` seconds meanwhile."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(interval)
            call()

    repeating = asyncio.create_task(repeat(), name="progress")
    try:
        yield
    finally:
        repeating.cancel()
        with suppress(asyncio.CancelledError):
            await repeating
