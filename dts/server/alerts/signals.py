"""Events that alerts count: log records, dead letters. Daemons add them up and put the sums into the store.

A thousand equal errors are one row with a count, whatever numbers they have in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from dts.model import Document, new_id
from dts.store import Store

COLLECTION = "signals"

_KEEP = 3600.0
"""Seconds for which sums are kept that no evaluator has taken."""

_MAX_KEYS = 200
"""Different events in one sum: what is beyond is counted with the last."""

_MAX_TEXT = 1000  # characters of an event
_MAX_KEY = 200

_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", re.IGNORECASE)


class Signal(msgspec.Struct, frozen=True):
    """Equal events: of which kind, what the first of them says, where they were, and how many.

    `rule` is that by which they count, where whoever counts them knows it.
    """

    kind: str
    text: str
    host: str = ""
    function: str = ""
    level: int = 0
    rule: str = ""
    key: str = ""
    count: int = 1


def key_of(text: str) -> str:
    """What equal events have in common: the first line without its numbers."""
    first = text.strip().partition("\n")[0]
    return _VARYING.sub("#", first)[:_MAX_KEY]


class Signals:
    """Adds events up until they are put into the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sums: dict[Signal, Signal] = {}
        self._unsent: Document | None = None

    def add(self, event: Signal) -> None:
        """Count an event; those with the same key, from the same place, are one sum."""
        key = key_of(event.text)
        group = msgspec.structs.replace(event, key=key, count=0, text="")
        if group not in self._sums and len(self._sums) >= _MAX_KEYS:
            group = next(reversed(self._sums))
        known = self._sums.get(group)
        if known is None:
            self._sums[group] = msgspec.structs.replace(event, key=key, text=event.text[:_MAX_TEXT])
        else:
            self._sums[group] = msgspec.structs.replace(known, count=known.count + event.count)

    async def flush(self) -> None:
        """Put what was counted into the store.

        Raises:
            StoreUnavailable: it is kept, and put there the next time, under the same id.
        """
        while self._unsent is not None or self._sums:
            if self._unsent is None:
                sums, self._sums = list(self._sums.values()), {}
                data = {"signals": msgspec.to_builtins(sums)}
                self._unsent = Document(COLLECTION, new_id(), data, expires=self._store.now() + _KEEP)
            await self._store.put_documents([self._unsent], durable=False)
            self._unsent = None


def signals_of(documents: Iterable[Document]) -> list[Signal]:
    """What documents have in them."""
    return [signal for each in documents for signal in msgspec.convert(each.data["signals"], list[Signal])]
