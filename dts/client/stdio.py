"""Standard output and error of a command, whose readers may have seen enough, as `head` does."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from dts.client.descriptors import wait_for
from dts.errors import ClientError
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
        _print(sentence, sys.stderr)
    except OSError:  # a full disk: there is no other place to say so
        forsake(sys.stderr)


def show(line: str) -> None:
    """Write a line to standard output, unless nobody reads it.

    Raises:
        ClientError: it cannot be written, such as on a full disk.
    """
    try:
        _print(line, sys.stdout)
    except OSError as error:
        forsake(sys.stdout)
        raise ClientError(f"cannot write standard output: {error.strerror}") from error


def _print(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        forsake(stream)
    except BlockingIOError:
        _flush_in_time(stream)


def _flush_in_time(stream: TextIO) -> None:
    """Write what waits in the buffer of a stream that does not block (O_NONBLOCK), as soon as its reader takes it."""
    while wait_for(stream.fileno(), select.POLLOUT, _READER_PATIENCE):
        try:
            stream.flush()
        except BlockingIOError:
            continue
        except BrokenPipeError:
            break
        return
    forsake(stream)


_READER_PATIENCE = 60.0
"""Seconds for which the reader of a stream may take nothing, before it is left without the rest."""


def _make_printable() -> None:
    """Let text that a stream's encoding lacks, such as ASCII in the locale C, be written with its numbers."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def tidy_streams(*, failed: int = 1) -> Iterator[frozenset[int]]:
    """Around all that a command does: a reader that has gone makes no noise when Python ends.

    The exit status is `failed` when standard output cannot be written. Gives the numbers of the standard streams that
    were closed from the start (`>&-`).
    """
    closed = fill_closed_streams()
    _make_printable()
    logging.getLogger("tornado.general").addHandler(logging.NullHandler())  # the client says the same in its own words
    try:
        yield closed
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            forsake(sys.stdout)
        except OSError as error:
            forsake(sys.stdout)
            tell(f"cannot write standard output: {error.strerror}")
            sys.exit(failed)
        try:
            sys.stderr.flush()
        except OSError:  # there is no other place to say so
            forsake(sys.stderr)
