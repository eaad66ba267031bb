"""The operation log: who changed what, written before the change and after it, in a chain that shows tampering.

Each write is two entries. The first, `begun`, is on stable storage before anything changes: if it cannot be written,
nothing is changed. The second says what came of it, before the answer goes out. A log cannot be one with the change
itself where a store has no transactions; this way round, a change without an entry cannot be, and an entry without its
second tells that something broke off there.

The hash of an entry is an HMAC (RFC 2104) with SHA-256 under a key derived from the server's key file: whoever has the
database alone cannot make a changed log look whole. The last hash is kept apart, so that a log cut short is found; and
since whoever cuts it can put that back, too, beside the key file as well (`anchor`).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from dts.errors import DtsError, StoreUnavailable
from dts.model import Operation
from dts.server.audit.checkpoint import CheckpointBroken, LogCheckpoint, Mark
from dts.store import Store

logger = logging.getLogger(__name__)

SECRET_FIELDS = frozenset({"secret", "ssh_key", "ssh_pem_cert", "ssh_passphrase"})
"""Names of fields whose values are never shown to anybody."""

MASK = "***"

BEGUN, DONE = "begun", "done"

BROKEN, FOUND = "operations.broken", "found"
"""The `op_type` and the outcome of the entry that a server makes when it finds that somebody has cut the log."""

_MAX_FAULTS = 100


class NotBegun(StoreUnavailable):
    """The store does not answer, so the change could not be put on record before: nothing was changed."""


class LogRefused(DtsError):
    """The operation log refused the entry that goes before a change: nothing was changed. The server's log says why."""


class EndRefused(DtsError):
    """The change was made, but the operation log did not take the entry for its end: look before you repeat it."""


class EndNotRecorded(StoreUnavailable):
    """The change was made, but the store went away before the end of it was on record: look before you repeat it."""


@dataclass
class Verdict:
    """What a look through the whole log gives. `anchor` is how far this host had seen the log before."""

    entries: int = 0
    last: int = 0
    anchor: int | None = None
    faults: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, seq: int, problem: str) -> None:
        """Note what is wrong with an entry, as long as there is room."""
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append({"seq": seq, "problem": problem})


class OperationLog:
    """Appends to the log, and verifies it."""

    def __init__(self, store: Store, key: bytes, anchor: LogCheckpoint) -> None:
        self._store = store
        self._key = key
        self._anchor = anchor
        self._last: Mark | None = None  # the entry that this process appended last, if it followed what was seen

    async def append(self, operation: Operation) -> Operation:
        """Append an entry, durably; one that ends an operation is also noted beside the key file as seen.

        As long as each entry follows the one that this process appended before, no other entry is read. When one does
        not, another server has appended in between, or the log was cut: then the last entry that this host has seen
        is looked for, and if it is not there, that is put on record, and stays noted as the proof. All else is found
        at start and by `verify`.

        Raises:
            StoreUnavailable: it may or may not be there.
            LogDamaged: nothing can follow.
        """
        entry = await self._store.append_operation(operation, self.seal)
        before, self._last = self._last, None
        follows = before is not None and entry.seq == before.seq + 1 and _same(entry.previous, before.hash)
        problem = "" if follows else await self._lost()
        if not problem and entry.outcome != BEGUN:
            problem = await self._advance(Mark(entry.seq, entry.hash))
        if problem:
            await self._put_on_record(problem)
        else:
            self._last = Mark(entry.seq, entry.hash)
        return entry

    async def check_end(self) -> None:
        """Look whether the end of the log is what this host has seen and what the store notes; else record it.

        Raises:
            StoreUnavailable: it was not looked at.
        """
        for look in (self._lost, self._displaced):
            if problem := await look():
                await self._put_on_record(problem)

    async def _lost(self) -> str:
        """What is not in the log any more that this host has seen there; empty if nothing is."""
        try:
            mark = await self._anchor.read()
        except CheckpointBroken as error:
            return str(error)
        if mark is None:
            return ""
        found = await self._store.list_operations(limit=1, after=mark.seq - 1, newest_first=False)
        if found and found[0].seq == mark.seq:
            return "" if _same(found[0].hash, mark.hash) else _another(mark.seq)
        return f"entry {mark.seq} is missing, which this server has seen"

    async def _displaced(self) -> str:
        """How the note of the last entry differs from the log by more than a crash explains; empty if it does not.

        An entry that was appended by a process that died then is ahead of the note by one, never by more.
        """
        before, _ = await self._store.operations_head()
        newest = await self._store.list_operations(limit=1)
        after, digest = await self._store.operations_head()
        last = newest[0].seq if newest else 0
        if before > last:
            return f"{_entries(last + 1, before)} missing at the end of the log"
        if after < last - 1:
            return f"the log goes on after entry {after}, which was noted as its last one, to entry {last}"
        if newest and after == last and not _same(newest[0].hash, digest):
            return f"entry {last} is not the one that was noted as the last one"
        return ""

    async def _put_on_record(self, problem: str) -> None:
        """Append an entry that tells what was found, unless the last such entry says the same."""
        recorded = await self._store.list_operations(where={"op_type": BROKEN}, limit=1)
        if recorded and recorded[0].ops.get("problem") == problem:
            return
        now, ops = round(time.time(), 6), {"problem": problem}
        await self._store.append_operation(Operation(now, "", "", BROKEN, "", ops, FOUND), self.seal)
        # Only now: a primary of the store that has been replaced and does not know it yet misses entries, too, and
        # takes none.
        logger.error("the operation log fails its check: %s; `dts-admin operations verify` names the entries", problem)

    async def _advance(self, mark: Mark) -> str:
        """Note an entry as seen by this host; returns what is wrong with what was noted before, if anything is."""
        try:
            await self._anchor.advance(mark)
        except CheckpointBroken as error:
            return str(error)
        except OSError as error:
            # Not worth refusing what administrators do: verification goes by what was noted last.
            logger.error("entry %d of the operation log is not noted beside the key file as seen: %s", mark.seq, error)
        return ""

    def seal(self, operation: Operation) -> str:
        """The hash of an entry."""
        return hmac.new(self._key, operation.canonical(), hashlib.sha256).hexdigest()

    async def verify(self) -> Verdict:
        """Go through all that is kept as the log, and tell what does not fit."""
        verdict = Verdict()
        mark = await self._seen(verdict)
        head, digest = await self._store.operations_head()
        previous = ""
        async for kept in self._store.kept_operations():
            entry = kept.entry
            if entry is not None:
                self._check(entry, verdict, previous)
            if kept.damage:
                verdict.fault(kept.seq, kept.damage)
            if entry is None:
                continue
            verdict.entries += 1
            verdict.last, previous = entry.seq, entry.hash
            if entry.seq == head and not _same(entry.hash, digest):
                verdict.fault(entry.seq, "it is not the entry that was appended last at that time")
            if mark is not None and entry.seq == mark.seq and not _same(entry.hash, mark.hash):
                verdict.fault(entry.seq, _another(entry.seq))
        await self._check_end(verdict, head, mark)
        if verdict.last and not verdict.faults:
            await self._advance(Mark(verdict.last, previous))
        return verdict

    async def _seen(self, verdict: Verdict) -> Mark | None:
        """How far this host had seen the log."""
        try:
            mark = await self._anchor.read()
        except CheckpointBroken as error:
            verdict.fault(0, str(error))
            return None
        verdict.anchor = mark.seq if mark is not None else None
        return mark

    async def _check_end(self, verdict: Verdict, head: int, mark: Mark | None) -> None:
        last = verdict.last
        if mark is not None and last < mark.seq and head < mark.seq:
            verdict.fault(last + 1, f"{_entries(last + 1, mark.seq)} missing, up to which this server has seen the log")
        elif last < head:
            verdict.fault(last + 1, f"{_entries(last + 1, head)} missing at the end of the log")
        head, _ = await self._store.operations_head()  # entries may have come meanwhile
        if last > head + 1:  # one that broke off may be ahead of it by one
            verdict.fault(last, f"the log goes on after entry {head}, which is noted as its last one")

    def _check(self, entry: Operation, verdict: Verdict, previous: str) -> None:
        if entry.seq != verdict.last + 1:
            verdict.fault(verdict.last + 1, f"{_entries(verdict.last + 1, entry.seq - 1)} missing")
        elif entry.previous != previous:
            verdict.fault(entry.seq, "it does not continue the entry before it")
        if not _same(self.seal(entry), entry.hash):
            verdict.fault(entry.seq, "it was changed after it was written")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _another(seq: int) -> str:
    return f"entry {seq} is not the one that this server has seen under that number"


def _entries(first: int, last: int) -> str:
    return f"entry {first} is" if first >= last else f"entries {first} to {last} are"


def masked(value: Any) -> Any:
    """A change as the log may show it: the values of secret fields replaced, whatever they are."""
    if isinstance(value, dict):
        return {name: MASK if name in SECRET_FIELDS else masked(each) for name, each in value.items()}
    return [masked(each) for each in value] if isinstance(value, list) else value
