"""The operation log: who changed what, written before the change and after it, in a chain that shows tampering.

Each write is two entries. The first, `begun`, is on stable storage before anything changes: if it cannot be written,
nothing is changed. The second says what came of it, before the answer goes out. A log cannot be one with the change
itself where a store has no transactions; this way round, a change without an entry cannot be, and an entry without its
second tells that something broke off there.

The hash of an entry is an HMAC (RFC 2104) with SHA-256 under a key derived from the server's key file: whoever has the
database alone cannot make a changed log look whole. The last hash is kept apart, so that a log cut short is found.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from dts.model import Operation, User
from dts.store import Store

if TYPE_CHECKING:
    from dts.server.handlers._base import DtsHandler

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SECRET_FIELDS = frozenset({"secret", "ssh_key", "ssh_pem_cert"})
"""Names of fields whose values are never shown to anybody."""

MASK = "***"

BEGUN, DONE = "begun", "done"

_PAGE = 500
_MAX_FAULTS = 100


@dataclass
class Verdict:
    """What a look through the whole log gives."""

    entries: int = 0
    last: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, seq: int, problem: str) -> None:
        """Note what is wrong with an entry, as long as there is room."""
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append({"seq": seq, "problem": problem})


class OperationLog:
    """Appends to the log, and verifies it."""

    def __init__(self, store: Store, key: bytes) -> None:
        self._store = store
        self._key = key

    async def append(self, operation: Operation) -> Operation:
        """Append an entry, durably.

        Raises:
            StoreUnavailable: it may or may not be there.
        """
        return await self._store.append_operation(operation, self.seal)

    def seal(self, operation: Operation) -> str:
        """The hash of an entry."""
        return hmac.new(self._key, operation.canonical(), hashlib.sha256).hexdigest()

    async def verify(self) -> Verdict:
        """Go through the log, a page at a time, and tell what does not fit."""
        head, digest = await self._store.operations_head()
        verdict = Verdict()
        previous = ""
        while entries := await self._store.list_operations(limit=_PAGE, after=verdict.last, newest_first=False):
            for entry in entries:
                self._check(entry, verdict, previous)
                verdict.entries += 1
                verdict.last, previous = entry.seq, entry.hash
                if entry.seq == head and not _same(entry.hash, digest):
                    verdict.fault(entry.seq, "it is not the entry that was appended last at that time")
        if verdict.last < head:
            verdict.fault(verdict.last + 1, f"{_entries(verdict.last + 1, head)} missing at the end of the log")
        head, _ = await self._store.operations_head()  # entries may have come meanwhile
        if verdict.last > head + 1:  # one that broke off may be ahead of it by one
            verdict.fault(verdict.last, f"the log goes on after entry {head}, which is noted as its last one")
        return verdict

    def _check(self, entry: Operation, verdict: Verdict, previous: str) -> None:
        if entry.seq != verdict.last + 1:
            verdict.fault(verdict.last + 1, f"{_entries(verdict.last + 1, entry.seq - 1)} missing")
        elif entry.previous != previous:
            verdict.fault(entry.seq, "it does not continue the entry before it")
        if not _same(self.seal(entry), entry.hash):
            verdict.fault(entry.seq, "it was changed after it was written")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _entries(first: int, last: int) -> str:
    return f"entry {first} is" if first >= last else f"entries {first} to {last} are"


def masked(value: Any) -> Any:
    """A change as the log may show it: the values of secret fields replaced, whatever they are."""
    if isinstance(value, dict):
        return {name: MASK if name in SECRET_FIELDS else masked(each) for name, each in value.items()}
    return [masked(each) for each in value] if isinstance(value, list) else value


H = TypeVar("H", bound="DtsHandler")


def operation_logger(
    op_type: str,
) -> Callable[[Callable[[H, User, str, Any], Awaitable[T]]], Callable[[H, User, str, Any], Awaitable[T]]]:
    """Decorate what carries out an admin write, called as `(handler, operator, doc_id, ops)`: it goes on record.

    `{name}` in `op_type` is the handler's own name for its kind of records.
    """

    def decorate(method: Callable[[H, User, str, Any], Awaitable[T]]) -> Callable[[H, User, str, Any], Awaitable[T]]:
        @wraps(method)
        async def call(self: H, operator: User, doc_id: str, ops: Any) -> T:
            log = self.context.operations
            begun = await log.append(
                Operation(
                    timestamp=round(time.time(), 6),
                    operator=operator.id,
                    address=self.request.remote_ip or "",
                    op_type=op_type.format(name=getattr(self, "name", "")),
                    doc_id=doc_id,
                    ops=masked(msgspec.to_builtins(ops)),
                    outcome=BEGUN,
                )
            )
            try:
                result = await method(self, operator, doc_id, ops)
            except Exception as error:
                await log.append(_ended(begun, self.code_of(error)))
                raise
            await log.append(_ended(begun, DONE))
            logger.info("%s: %s %.100r", operator.id, begun.op_type, doc_id)
            return result

        return call

    return decorate


def _ended(begun: Operation, outcome: str) -> Operation:
    """The second entry of a write."""
    return replace(begun, timestamp=round(time.time(), 6), outcome=outcome, begun=begun.seq)
