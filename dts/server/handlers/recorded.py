"""Puts an administrator's write on record: an entry in the operation log before it, and another one after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import msgspec

from dts.errors import LogDamaged, StoreUnavailable
from dts.model import Operation, User
from dts.server.audit.log import BEGUN, DONE, EndNotRecorded, EndRefused, LogRefused, NotBegun, OperationLog, masked
from dts.server.handlers._base import DtsHandler

logger = logging.getLogger(__name__)

T = TypeVar("T")
H = TypeVar("H", bound=DtsHandler)


def operation_logger(
    op_type: str,
) -> Callable[[Callable[[H, User, str, Any], Awaitable[T]]], Callable[[H, User, str, Any], Awaitable[T]]]:
    """Decorate what carries out an admin write, called as `(handler, operator, doc_id, ops)`: it goes on record.

    `{name}` in `op_type` is the handler's own name for its kind of records. In place of `ops`, what was asked for, goes
    on record what the handler has in `on_record`, which it may set before and while it is called.
    """

    def decorate(method: Callable[[H, User, str, Any], Awaitable[T]]) -> Callable[[H, User, str, Any], Awaitable[T]]:
        @wraps(method)
        async def call(self: H, operator: User, doc_id: str, ops: Any) -> T:
            kind = op_type.format(name=getattr(self, "name", ""))

            def shown() -> Any:
                return ops if self.on_record is None else self.on_record

            return await recorded(
                self, operator, kind, doc_id, ops=shown, work=lambda: method(self, operator, doc_id, ops)
            )

        return call

    return decorate


async def recorded(
    handler: DtsHandler,
    operator: User,
    op_type: str,
    doc_id: str,
    *,
    ops: Callable[[], Any],
    work: Callable[[], Awaitable[T]],
) -> T:
    """Do some work of an operator's, on record before and after; `ops` gives what is to be seen of it at that time.

    Raises:
        NotBegun: the store does not answer; nothing was done.
        LogDamaged: nothing can follow in the log; nothing was done.
        LogRefused: the log does not take the entry; nothing was done.
        EndNotRecorded: it was done, and the store went away.
        EndRefused: it was done, and the log does not take the second entry.
    """
    log = handler.context.operations
    begun = Operation(
        timestamp=round(time.time(), 6),
        operator=operator.id,
        address=handler.client_address(),
        op_type=op_type,
        doc_id=doc_id,
        ops=masked(msgspec.to_builtins(ops())),
        outcome=BEGUN,
    )
    begun = await _begin(log, begun)
    try:
        result = await work()
    except Exception as error:
        await _end_failure(log, _ended(begun, handler.code_of(error)))
        raise
    try:
        await log.append(replace(_ended(begun, DONE), ops=masked(msgspec.to_builtins(ops()))))
    except StoreUnavailable as error:
        raise EndNotRecorded from error
    except Exception as error:  # whatever a back end says to an entry that it cannot take
        raise EndRefused from error
    logger.info("%s: %s %.100r", operator.id, op_type, doc_id)
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
