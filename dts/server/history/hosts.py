"""How hosts were: every few seconds for hours, by the minute for days, by the hour for a year."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from dts.model import Document, WorkerState
from dts.server.history.chunks import Row, chunk_document, read_rows, start_of
from dts.store import Store

COLLECTION = "host_history"

FIGURES = ("cpu", "memory", "disk", "load", "children", "jobs_running")
"""What is kept of a heartbeat."""

MAX_ROWS = 2000
"""Rows of one answer; a finer resolution than that is not given for so long a time."""

_MAX_HOSTS = 10_000  # that one process notes


@dataclass(frozen=True, slots=True)
class Resolution:
    """Rows of `step` seconds in chunks of `length`, kept for `keep`."""

    name: str
    step: int
    length: int
    keep: float


RESOLUTIONS = (
    Resolution("raw", 5, 300, 6 * 3600.0),
    Resolution("minute", 60, 3600, 7 * 86400.0),
    Resolution("hour", 3600, 86400, 366 * 86400.0),
)


class HostRow(msgspec.Struct):
    """A host at a time: means and maxima over a step of what its heartbeats said, of which there were `count`."""

    time: float
    count: int
    mean: dict[str, float]
    max: dict[str, float]


@dataclass
class _Chunk:
    """Rows of one host, the last of which still grows."""

    start: int
    rows: list[Row] = field(default_factory=list)
    changed: bool = True


class HostHistory:
    """Notes heartbeats in memory, and puts what is new into the store now and then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = uuid.uuid4().hex[:8]
        self._chunks: dict[tuple[str, str], _Chunk] = {}
        self._ended: list[Document] = []

    def note(self, states: Iterable[WorkerState]) -> None:
        """Take heartbeats in."""
        for state in states:
            for resolution in RESOLUTIONS:
                self._note(state, resolution)

    def _note(self, state: WorkerState, resolution: Resolution) -> None:
        key = resolution.name, state.host
        start = start_of(state.time, resolution.length)
        chunk = self._chunks.get(key)
        if chunk is None or start > chunk.start:
            if chunk is None and len(self._chunks) >= _MAX_HOSTS * len(RESOLUTIONS):
                return
            if chunk is not None and chunk.changed:
                self._ended.append(self._document(state.host, resolution, chunk))
            chunk = self._chunks[key] = _Chunk(start)
        elif start < chunk.start:
            return  # a heartbeat that was long on its way
        time = start_of(state.time, resolution.step)
        values = [float(getattr(state, name)) for name in FIGURES]
        if chunk.rows and chunk.rows[-1][0] >= time:
            _add(chunk.rows[-1], values)
        else:
            chunk.rows.append([time, 1, values, list(values)])
        chunk.changed = True

    async def flush(self) -> None:
        """Put what has changed into the store.

        Raises:
            StoreUnavailable: it is put there the next time.
        """
        ended, self._ended = self._ended, []
        changed = [(key, chunk) for key, chunk in self._chunks.items() if chunk.changed]
        by_name = {resolution.name: resolution for resolution in RESOLUTIONS}
        documents = ended + [self._document(host, by_name[name], chunk) for (name, host), chunk in changed]
        for _, chunk in changed:
            chunk.changed = False
        try:
            await self._store.put_documents(documents, durable=False)
        except BaseException:
            self._ended = [*ended, *self._ended]
            for _, chunk in changed:
                chunk.changed = True
            raise

    def forget(self, hosts: Iterable[str]) -> None:
        """Hold nothing in memory any more of hosts but these."""
        known = set(hosts)
        self._chunks = {key: chunk for key, chunk in self._chunks.items() if key[1] in known}

    def _document(self, host: str, resolution: Resolution, chunk: _Chunk) -> Document:
        return chunk_document(
            COLLECTION,
            f"{_place(host, resolution)}.{chunk.start:012}.{self._me}",
            _place(host, resolution),
            [[row[0], row[1], _rounded(row[2]), _rounded(row[3])] for row in chunk.rows],
            expires=chunk.start + resolution.length + resolution.keep,
        )


def _add(row: Row, values: Sequence[float]) -> None:
    """Take values into a row: its count, means and maxima."""
    count = row[1] + 1
    row[1] = count
    row[2] = [mean + (value - mean) / count for mean, value in zip(row[2], values, strict=True)]
    row[3] = [max(before, value) for before, value in zip(row[3], values, strict=True)]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _place(host: str, resolution: Resolution) -> str:
    return f"{host}/{resolution.name}"


def resolution_for(since: float, until: float, now: float) -> Resolution:
    """The finest resolution that was kept for a time and gives no more than MAX_ROWS rows."""
    for resolution in RESOLUTIONS[:-1]:
        if since >= now - resolution.keep and (until - since) / resolution.step <= MAX_ROWS:
            return resolution
    return RESOLUTIONS[-1]


async def host_history(store: Store, host: str, resolution: Resolution, *, since: float, until: float) -> list[HostRow]:
    """How a host was, by time; the last MAX_ROWS rows.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    place = _place(host, resolution)
    first = f"{place}.{max(0, start_of(since, resolution.length)):012}"
    last = f"{place}.{max(0, start_of(until, resolution.length) + resolution.length):012}"
    merged: dict[int, Row] = {}
    for row in await read_rows(store, COLLECTION, place, first=first, last=last):
        if since - resolution.step < row[0] <= until:
            known = merged.get(row[0])
            merged[row[0]] = row if known is None else _merged(known, row)
    rows = [merged[time] for time in sorted(merged)][-MAX_ROWS:]
    return [
        HostRow(row[0], row[1], dict(zip(FIGURES, row[2], strict=False)), dict(zip(FIGURES, row[3], strict=False)))
        for row in rows
    ]


def _merged(one: Row, other: Row) -> Row:
    """Two rows of the same time, by different processes, as one."""
    count = one[1] + other[1]
    means = [(a * one[1] + b * other[1]) / count for a, b in zip(one[2], other[2], strict=True)]
    return [one[0], count, _rounded(means), [max(pair) for pair in zip(one[3], other[3], strict=True)]]
