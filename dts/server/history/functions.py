"""What became of functions' attempts by the minute: how many, how many failed, how long they took.

Porter notes each message of results as it comes: a few additions, whatever the number of its jobs. Durations are
counted in classes, each 1.25 times as long as the one before, so that the counts of several porters can be added up and
percentiles are right to an eighth; of the jobs of a message 32 at most are looked at, and stand for the others.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from dts.model import Document
from dts.server.history.chunks import Row, chunk_document, read_rows, start_of
from dts.store import Store

COLLECTION = "function_history"

STEP = 60
LENGTH = 3600  # seconds of a chunk
KEEP = 90 * 86400.0

_FACTOR = 1.25
_SMALLEST = 1e-6  # seconds: what the first class ends with
_CLASSES = 140  # up to some years
_LOOKED_AT = 32  # durations of one message
_RECENT = 10  # minutes that are in a chunk's data, for who wants to know of now
_MAX_FUNCTIONS = 5000

_LOG = math.log(_FACTOR)


@dataclass
class _Minute:
    """What was noted of a minute."""

    count: int = 0
    failed: int = 0
    wait: float = 0.0
    classes: dict[int, float] = field(default_factory=dict)


class FunctionRow(msgspec.Struct):
    """A function for a time: attempts that ended, those that failed, and how long they took, in seconds.

    `wait` is the longest that one was on its way from its publishing to its start.
    """

    time: float
    count: int
    failed: int
    wait: float
    p50: float | None
    p95: float | None


class FunctionHistory:
    """Notes results in memory, and puts what is new into the store now and then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = uuid.uuid4().hex[:8]
        self._hours: dict[tuple[int, str], dict[int, _Minute]] = {}
        self._changed: set[tuple[int, str]] = set()

    def note(self, function: str, durations: Sequence[float], failed: int, wait: float | None) -> None:
        """Take in the attempts of a message."""
        now = self._store.now()
        key = start_of(now, LENGTH), function
        if key not in self._hours and len(self._hours) >= _MAX_FUNCTIONS:
            return
        minute = self._hours.setdefault(key, {}).setdefault(start_of(now, STEP), _Minute())
        minute.count += len(durations)
        minute.failed += failed
        minute.wait = max(minute.wait, wait or 0.0)
        stride = max(1, len(durations) // _LOOKED_AT)
        looked_at = durations[::stride]
        for duration in looked_at:
            number = class_of(duration)
            minute.classes[number] = minute.classes.get(number, 0.0) + len(durations) / len(looked_at)
        self._changed.add(key)

    async def flush(self) -> None:
        """Put what has changed into the store, and forget hours that are over.

        Raises:
            StoreUnavailable: it is put there the next time.
        """
        changed, self._changed = self._changed, set()
        try:
            await self._store.put_documents([self._document(*key) for key in sorted(changed)], durable=False)
        except BaseException:
            self._changed |= changed
            raise
        over = start_of(self._store.now(), LENGTH)
        self._hours = {key: minutes for key, minutes in self._hours.items() if key[0] >= over or key in self._changed}

    def _document(self, hour: int, function: str) -> Document:
        minutes = self._hours[hour, function]
        rows = [
            [time, each.count, each.failed, round(each.wait, 3), _plain(each.classes)]
            for time, each in sorted(minutes.items())
        ]
        recent = {"function": function, "recent": [row[:4] for row in rows[-_RECENT:]]}
        key = f"{hour:012}.{function}.{self._me}"
        return chunk_document(COLLECTION, key, function, rows, expires=hour + LENGTH + KEEP, data=recent)


def class_of(duration: float) -> int:
    """The class that a duration counts in."""
    if not duration > _SMALLEST:
        return 0
    return min(_CLASSES, math.ceil(math.log(duration / _SMALLEST) / _LOG)) if duration < math.inf else _CLASSES


def percentile(classes: Mapping[int, float], share: float) -> float | None:
    """The duration that a share of those in classes do not exceed; None for none."""
    left = share * sum(classes.values())
    for number in sorted(classes):
        left -= classes[number]
        if left <= 1e-9:
            return round(float(_SMALLEST * _FACTOR ** (number - 0.5)), 9)
    return None


def _plain(classes: Mapping[int, float]) -> list[float]:
    """Classes with counts as one list: number, count, number, count…"""
    return [item for number, count in sorted(classes.items()) for item in (number, round(count, 1))]


async def function_history(
    store: Store, function: str, *, since: float, until: float, step: int = STEP
) -> list[FunctionRow]:
    """What became of a function's attempts, in rows of `step` seconds, by time.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    first, last = f"{start_of(since, LENGTH):012}", f"{start_of(until, LENGTH) + LENGTH:012}"
    merged: dict[int, _Minute] = {}
    for row in await read_rows(store, COLLECTION, function, first=first, last=last):
        if since - STEP < row[0] <= until:
            _take(merged.setdefault(start_of(row[0], step), _Minute()), row)
    return [
        FunctionRow(
            time,
            minute.count,
            minute.failed,
            minute.wait,
            percentile(minute.classes, 0.5),
            percentile(minute.classes, 0.95),
        )
        for time, minute in sorted(merged.items())
    ]


def _take(minute: _Minute, row: Row) -> None:
    minute.count += row[1]
    minute.failed += row[2]
    minute.wait = max(minute.wait, row[3])
    numbers: Iterable[int] = row[4][::2]
    for number, count in zip(numbers, row[4][1::2], strict=True):
        minute.classes[int(number)] = minute.classes.get(int(number), 0.0) + count


async def recent_traffic(store: Store, *, seconds: float) -> dict[str, tuple[int, int, float]]:
    """Attempts, failed ones, and the longest wait of each function that had any in the last `seconds`.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    now = store.now()
    since = start_of(now - seconds, STEP)
    found: dict[str, tuple[int, int, float]] = {}
    after: str | None = f"{start_of(since, LENGTH):012}"
    while page := await store.list_documents(COLLECTION, after=after, limit=1000):
        for document in page:
            rows = [row for row in document.data["recent"] if row[0] >= since]
            name = document.data["function"]
            count, failed, wait = found.get(name, (0, 0, 0.0))
            if rows:
                found[name] = (
                    count + sum([row[1] for row in rows]),
                    failed + sum([row[2] for row in rows]),
                    max(wait, *[row[3] for row in rows]),
                )
        after = page[-1].id
    return found
