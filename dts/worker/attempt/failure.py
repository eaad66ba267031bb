"""Describes an exception of a user's code as the Error message that its caller gets: bounded, valid UTF-8."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from types import TracebackType

from dts.errors import DtsError
from dts.wire.dts_pb2 import Error
from dts.worker.attempt.introspection import full_name, is_a, name_of, text_of, traceback_of

MAX_MESSAGE = 4 * 1024
"""Characters of an error's message."""
MAX_TRACEBACK = 8 * 1024
"""Characters of a traceback."""

_OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")  # dts/worker/
_BUNDLED = os.path.join(_OURS, "functions", "")
_IMPORT_SYSTEM = (importlib.__file__, "<frozen importlib")
"""Beginnings of the names of files whose frames lie between the worker and a module that it imports."""


def unmasked(text: str) -> str:
    """A text as it is: for those who know no secrets."""
    return text


def describe(error: BaseException, mask: Callable[[str], str] = unmasked) -> Error:
    """The Error message for an exception that a function raised, whatever the exception's own code does meanwhile.

    The traceback begins in the function: the frames of the worker are left out. Secrets are masked before a text is
    cut, since nobody would know half of one.
    """
    try:
        return Error(
            type=type_name(error),
            message=clip(mask(_message(error)), MAX_MESSAGE),
            traceback=clip(mask(format_traceback(error, _in_function(error))), MAX_TRACEBACK),
        )
    except BaseException as broken:  # noqa: BLE001 - the exception's own code runs here, and can do anything
        return Error(type=type_name(error), message=f"its description raised {name_of(type(broken))}")


def describe_ours(error: DtsError, mask: Callable[[str], str] = unmasked) -> Error:
    """The Error message when DTS itself ended a job; the traceback is that of the cause in the user's code, if any."""
    cause = error.__cause__
    text = ""
    if cause is not None:
        text = format_traceback(cause, _after_import_system(traceback_of(cause)))
    return Error(
        type=type(error).__name__,
        message=clip(mask(text_of(error)), MAX_MESSAGE),
        traceback=clip(mask(text), MAX_TRACEBACK),
    )


def type_name(error: BaseException) -> str:
    """The name of an exception's type, with its module unless it is a built-in."""
    return clip(full_name(type(error)), 256)


def clip(text: str, limit: int) -> str:
    """`text` with at most about `limit` characters, its middle cut out, and surrogates written as escapes."""
    if len(text) > limit:
        head = limit // 4
        text = f"{text[:head]}\n… {len(text) - limit} characters left out …\n{text[head - limit :]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def record_text(record: logging.LogRecord) -> str:
    """The message of a log record, with the traceback of the exception that it is about, and its stack."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    if record.stack_info:
        text += f"\n{record.stack_info}"
    return text


def format_traceback(error: BaseException, trace: TracebackType | None) -> str:
    """The traceback of an exception from `trace` on, with its causes, as Python prints it."""
    import traceback  # 10 ms, and many a child never needs it

    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as broken:  # noqa: BLE001 - the exception's own code runs here, and can do anything
        return f"the traceback cannot be shown: {name_of(type(broken))}\n"


def _message(error: BaseException) -> str:
    text = text_of(error)
    if is_a(error, SystemExit):
        return f"the function called sys.exit({text})"
    if not text and name_of(type(error)) == "CancelledError":
        return "what the function awaited was cancelled, or its own task, and not by DTS: the function did that itself"
    return text


def _in_function(error: BaseException) -> TracebackType | None:
    """The part of an exception's traceback that begins in the function."""
    trace = traceback_of(error)
    trace = trace.tb_next if trace is not None else None
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS) and not filename.startswith(_BUNDLED)


def _after_import_system(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins in the imported module."""
    while trace is not None and _is_of_import(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_of_import(filename: str) -> bool:
    return _is_ours(filename) or filename.startswith(_IMPORT_SYSTEM)
