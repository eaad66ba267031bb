"""What a command says while a run goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dts.client.client import DtsClient
from dts.client.components import FileComponent, IterableComponent
from dts.client.stdio import tell


class Screen:
    """Where sentences for the user go: stderr, above the progress bar when there is one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._print: Callable[[str], None] = tell

    @contextmanager
    def progress(self, client: DtsClient, source: FileComponent | None) -> Iterator[None]:
        """Show how far the run is meanwhile, if that is wanted."""
        wanted: bool | None = self._options.progress
        if not (sys.stderr.isatty() and not self._options.quiet if wanted is None else wanted):
            yield
            return
        from dts.client.progress import ProgressBar  # rich takes long to import and is not always needed

        known = source or IterableComponent(())
        bar = ProgressBar(lambda: client.progress, known, self._options.function, lambda: client.held_by)
        with bar:
            self._print = bar.say
            yield
        self._print = tell

    def say(self, sentence: str) -> None:
        """Say something that the user should know."""
        self._print(f"dts-client: {sentence}")
