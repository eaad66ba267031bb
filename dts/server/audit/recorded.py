"""Puts work on record: an entry in the operation log before it, and another one after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from dts.errors import LogDamaged, StoreUnavailable
from dts.model import Operation
from dts.server.audit.log import BEGUN, DONE, EndNotRecorded, EndRefused, LogRefused, NotBegun, OperationLog, masked

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def record_work(
    log: OperationLog,
    entry: Operation,
    *,
    ops: Callable[[], Any],
    work: Callable[[], Awaitable[T]],
    code_of: Callable[[Exception], str],
) -> T:
    """Do some work of an operator's, on record before and after; `ops` gives what is to be seen of it at that time.

    `entry` says who does what to what; `code_of` gives the outcome when the work raises.

    Raises:
        NotBegun: the store does not answer; nothing was done.
        LogDamaged: nothing can follow in the log; nothing was done.
        LogRefused: the log does not take the entry; nothing was done.
        EndNotRecorded: it was done, and the store went away.
        EndRefused: it was done, and the log does not take the second entry.
    """
    now = round(time.time(), 6)
    begun = await _begin(log, replace(entry, timestamp=now, ops=masked(msgspec.to_builtins(ops())), outcome=BEGUN))
    try:
        result = await work()
    except Exception as error:
        await _end_failure(log, _ended(begun, code_of(error)))
        raise
    try:
        await log.append(replace(_ended(begun, DONE), ops=masked(msgspec.to_builtins(ops()))))
    except StoreUnavailable as error:
        raise EndNotRecorded from error
    except Exception as error:  # whatever a back end says to an entry that it cannot take
        raise EndRefused from error
    logger.info("%s: %s %.100r", entry.operator, entry.op_type, entry.doc_id)
    return result


async def _begin(log: OperationLog, entry: Operation) -> Operation:
    try:
        return await log.append(entry)
    except StoreUnavailable as error:
        raise NotBegun from error
    except LogDamaged:
        raise
    except Exception as error:  # whatever a back end says to an entry that it cannot take
        raise LogRefused from error


async def _end_failure(log: OperationLog, entry: Operation) -> None:
    """Put on record what a write failed with. That is what the caller is told, whatever becomes of the entry."""
    try:
        await log.append(entry)
    except Exception:  # as above
        logger.exception(
            "%s %.100r failed (%s), and the log has no end of it", entry.op_type, entry.doc_id, entry.outcome
        )


def _ended(begun: Operation, outcome: str) -> Operation:
    """The second entry of a write."""
    return replace(begun, timestamp=round(time.time(), 6), outcome=outcome, begun=begun.seq)
