"""Standard output and error of a command, whose readers may have seen enough, as `head` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def forsake(stream: TextIO) -> None:
    """Send what is written from here on nowhere, and what waits in the buffer: it must not fail again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def tell(sentence: str) -> None:
    """Write a line to standard error, unless nobody reads it."""
    try:
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:
        forsake(sys.stderr)


@contextmanager
def tidy_streams() -> Iterator[None]:
    """Around all that a command does: a reader that has gone makes no noise when Python ends.

    A stream that was closed from the start (`>&-`) is one that nobody reads; else the first file or connection that
    is opened would take its place.
    """
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                forsake(stream)
