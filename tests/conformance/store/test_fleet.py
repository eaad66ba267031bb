"""Heartbeats and log entries."""

from __future__ import annotations

from dataclasses import replace

from dts.model import LogEntry, LogFilter, WorkerState
from dts.store import Store

STATE = WorkerState(
    "a-1",
    "a",
    10.0,
    pid=7,
    version="1.0",
    started=1.0,
    routes=("default", "gpu"),
    cpu=12.5,
    state="working",
    functions={"text/upper": {"received": 3, "done": 2, "failed": 1}},
    running=({"job": "x-1", "function": "text/upper", "started": 9.0},),
)


async def test_the_last_state_of_each_worker_is_kept(store: Store) -> None:
    await store.save_heartbeats([])
    await store.save_heartbeats([STATE, replace(STATE, worker="b-1", host="b", time=20.0)])
    later = replace(STATE, time=30.0, cpu=99.0)
    await store.save_heartbeats([later, replace(STATE, time=25.0)])
    states = await store.list_heartbeats()
    assert [(each.worker, each.time) for each in states] == [("a-1", 30.0), ("b-1", 20.0)]
    assert states[0] == later
    assert [each.worker for each in await store.list_heartbeats(since=20.0)] == ["a-1"]
    assert await store.drop_heartbeats(25.0) == 1
    assert [each.worker for each in await store.list_heartbeats()] == ["a-1"]


def entry(number: int, **fields: object) -> LogEntry:
    plain = LogEntry(f"id{number:04}", "a", "worker", float(number), 30, "dts", f"message {number}")
    return replace(plain, **fields)  # type: ignore[arg-type]


async def test_log_entries_are_listed_newest_first_by_pages_and_filters(store: Store) -> None:
    entries = [entry(number) for number in range(6)]
    entries[2] = replace(entries[2], level=40, job="x-1")
    entries[4] = replace(entries[4], host="b", source="syslog", logger="other", message="lone \ud800 surrogate")
    await store.add_logs(entries)
    await store.add_logs(entries[:2])
    assert [each.id for each in await store.list_logs(limit=3)] == ["id0005", "id0004", "id0003"]
    assert [each.id for each in await store.list_logs(after="id0003")] == ["id0002", "id0001", "id0000"]
    assert await store.list_logs(LogFilter(level=40)) == [entries[2]]
    assert await store.list_logs(LogFilter(job="x-1")) == [entries[2]]
    for which in (LogFilter(host="b"), LogFilter(source="syslog"), LogFilter(logger="other")):
        assert [each.id for each in await store.list_logs(which)] == ["id0004"]
    assert [each.time for each in await store.list_logs(LogFilter(since=2.0, until=4.0))] == [3.0, 2.0]
    assert await store.list_logs(limit=0) == []


async def test_logs_are_bounded_by_age_and_number(store: Store) -> None:
    await store.add_logs([entry(number) for number in range(10)])
    assert await store.prune_logs(before=3.0, keep=100) == 3
    assert await store.prune_logs(before=0.0, keep=4) == 3
    assert [each.id for each in await store.list_logs()] == ["id0009", "id0008", "id0007", "id0006"]
