"""Standard output and error of a command, whose readers may have seen enough, as `head` does."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from dts.runtime.process import fill_closed_streams


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
def tidy_streams() -> Iterator[frozenset[int]]:
    """Around all that a command does: a reader that has gone makes no noise when Python ends.

    Gives the numbers of the standard streams that were closed from the start (`>&-`); of two of them, nobody reads.
    """
    closed = fill_closed_streams()
    logging.getLogger("tornado.general").addHandler(logging.NullHandler())  # the client says the same in its own words
    try:
        yield closed
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                forsake(stream)
