"""Puts an administrator's write on record: an entry in the operation log before it, and another one after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from dts.model import Operation, User
from dts.server.audit.recorded import record_work
from dts.server.handlers._base import DtsHandler

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
    """Do some work that a request of an operator's asks for, on record: see `record_work`."""
    entry = Operation(
        timestamp=0.0,
        operator=operator.id,
        address=handler.client_address(),
        op_type=op_type,
        doc_id=doc_id,
        ops={},
        outcome="",
    )
    return await record_work(handler.context.operations, entry, ops=ops, work=work, code_of=handler.code_of)
