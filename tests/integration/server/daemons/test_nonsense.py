"""Messages that make no sense, on each set of back ends: they end no daemon, and nothing waits for them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import msgspec
import pytest
from pymongo.errors import OperationFailure

from dts.broker import Broker, Message, open_broker
from dts.config import Settings, load_settings
from dts.model import Block, DeadLetter, LogEntry, Run, RunState, WorkerState, new_id
from dts.server.daemons import Logtracer, Porter, Stethoscope, Timekeeper
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.store import Store, open_store
from dts.store.mongo.connection import translating
from dts.wire import dts_pb2, queues
from tests.services.waiting import within

T = TypeVar("T")

NUMBERS = [math.nan, math.inf, -math.inf, 1e300, -1e18, -1.0, 0.0]


@dataclass
class Hall:
    """All daemons but the servers', and what is behind them."""

    store: Store
    broker: Broker
    daemons: Sequence[Any]

    async def send(self, queue: str, *messages: bytes | Any) -> None:
        bodies = [each if isinstance(each, bytes) else each.SerializeToString() for each in messages]
        await self.broker.publish(queue, [Message(body) for body in bodies])

    async def until(self, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
        """What is found once it is enough."""
        async with within():
            while not enough(found := await look()):
                assert not any(daemon.failed.is_set() for daemon in self.daemons)
                await asyncio.sleep(0.02)
        return found


@pytest.fixture
def settings() -> Settings:
    daemons = {"relay_interval": 0.05, "log_mail_interval": 0.01, "alert_interval": 0.05, "log_mail_level": "WARNING"}
    return load_settings(None, environment={}, flags={"daemons": daemons})


@pytest.fixture
async def hall(urls: tuple[str, str], settings: Settings) -> AsyncIterator[Hall]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(urls[1]))
        kinds = (Timekeeper, Porter, Logtracer, Stethoscope)
        daemons = [await stack.enter_async_context(kind(store, broker, settings)) for kind in kinds]
        yield Hall(store, broker, daemons)


async def test_records_with_any_number_for_a_time_are_kept_and_mailed(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    strange = [dts_pb2.LogRecord(host="h", time=number, level=40, message=f"at {number}") for number in NUMBERS]
    huge = dts_pb2.LogRecord(time=time.time(), level=2**31 - 1, message="big", logger="n" * 9000, job="j" * 9000)
    await hall.send(queues.LOGS, b"\xff\xff", *strange, dts_pb2.LogRecord(level=-(2**31), message="low"), huge)
    found = await hall.until(lambda: hall.store.list_logs(limit=99), lambda found: len(found) == len(strange) + 2)
    assert all(abs(entry.time - time.time()) < 60 for entry in found)
    by_text = {entry.message: entry for entry in found}
    assert (by_text["big"].level, by_text["low"].level) == (1000, 0)
    assert (len(by_text["big"].logger), by_text["big"].job) == (256, "")

    async def notices() -> str:
        return caplog.text

    await hall.until(notices, lambda text: "× ERROR at" in text)


async def test_heartbeats_with_any_numbers_are_kept_and_can_be_listed(hall: Hall) -> None:
    for index, number in enumerate(NUMBERS):
        beat = dts_pb2.Heartbeat(worker=f"w{index}", host=f"h{index}", time=number, started=number, load_1m=number)
        beat.cpu_percent = beat.memory_percent = beat.disk_percent = number
        beat.functions["a/b"].done = 2**64 - 1
        beat.running.add(job="x" * 9000, started=number)
        beat.children = beat.jobs_running = beat.pid = 2**32 - 1
        await hall.send(queues.HEARTBEATS, b"\xff\xff", beat, dts_pb2.Heartbeat(worker="w" * 9000, host="h"))
    states = await hall.until(hall.store.list_heartbeats, lambda states: len(states) == len(NUMBERS))
    for state in states:
        figures = (state.cpu, state.memory, state.disk)
        assert all(0 <= each <= 100 for each in figures)
        assert 0 <= state.load < 1e7
        assert abs(state.time - time.time()) < 60
        assert len(state.running[0]["job"]) == 256
        assert "null" not in msgspec.json.encode(state).decode()
    letters = await hall.until(lambda: hall.store.list_dead_letters(limit=99), lambda letters: len(letters) >= 2)
    assert {letter.queue for letter in letters} == {queues.HEARTBEATS}


async def test_results_with_any_numbers_and_names_keep_no_others_waiting(hall: Hall) -> None:
    run = Run(new_id(), "ann", "a/b", 64, RunState.CLOSED, created=1.0)
    block = replace(new_block(run, 0, run.function, batch_from_arguments([Arguments(b"", b"")] * 9)), published=True)
    await hall.store.add_blocks([block], run=run)

    def batch(**fields: Any) -> dts_pb2.ResultBatch:
        return dts_pb2.ResultBatch(**{"block": block.id, "run": run.id, "function": "a/b", **fields})

    def retry(**fields: Any) -> dts_pb2.ResultBatch:
        return batch(results=[dts_pb2.Result(index=8, status=dts_pb2.RETRY, **fields)])

    deep = b"[" * 200_000 + b"]" * 200_000
    refused = [
        b"\xff\xff",
        batch(block='"}: what', running=[1]),
        batch(block="r" * 9000, running=[1]),
        batch(function="f" * 9000, running=[2]),
        batch(version="v" * 9000, running=[2]),
        retry(attempt=2**32 - 1),
        retry(kills=2**32 - 1),
        retry(fence=2**32 - 1),
        batch(claims=[dts_pb2.Claim(index=8, fence=1, seconds=math.nan)]),
        batch(claims=[dts_pb2.Claim(index=8, fence=2**32 - 1, seconds=1.0)]),
    ]
    taken = [
        batch(progress=[dts_pb2.Progress(index=1, done=math.nan), dts_pb2.Progress(index=1, partials=deep)]),
        batch(progress=[dts_pb2.Progress(index=1, partials=b'["\xff"]')]),
        *[
            batch(started=number, results=[dts_pb2.Result(index=n, status=dts_pb2.SUCCEEDED, duration=number)])
            for n, number in enumerate([math.nan, math.inf, -math.inf, -1.0])
        ],
        batch(results=[dts_pb2.Result(index=4, status=dts_pb2.RETRY, delay=math.nan)]),
        batch(results=[dts_pb2.Result(index=5, status=dts_pb2.RETRY, delay=-math.inf)]),
        batch(results=[dts_pb2.Result(index=6, status=dts_pb2.RETRY, delay=1e300)]),
        batch(run="x" * 20, results=[dts_pb2.Result(index=7, status=dts_pb2.SUCCEEDED)]),
    ]
    await hall.send(queues.RESULTS, *refused, *taken)

    async def ended() -> int:
        outcome = await hall.store.get_outcome(block.id)
        return outcome.succeeded if outcome else 0

    await hall.until(ended, lambda count: count == 5)

    async def dead_results() -> list[DeadLetter]:
        """Those of this queue: the broker may still have letters of the test before."""
        return [each for each in await hall.store.list_dead_letters(limit=99) if each.queue == queues.RESULTS]

    letters = await hall.until(dead_results, lambda each: len(each) >= len(refused))
    assert len(letters) == len(refused)
    assert not any(daemon.failed.is_set() for daemon in hall.daemons)


async def test_what_the_store_refuses_is_a_dead_letter_and_the_rest_is_recorded(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a kind that nobody has thought of yet."""
    add_logs, save = hall.store.add_logs, hall.store.save_heartbeats

    async def add(entries: Sequence[LogEntry]) -> None:
        if any(entry.message == "bad" for entry in entries):
            raise OverflowError("MongoDB can only handle up to 8-byte ints")
        await add_logs(entries)

    async def save_some(states: Sequence[WorkerState]) -> None:
        if any(state.worker == "bad" for state in states):
            raise ValueError("no")
        await save(states)

    monkeypatch.setattr(hall.store, "add_logs", add)
    monkeypatch.setattr(hall.store, "save_heartbeats", save_some)
    now = time.time()
    await hall.send(queues.LOGS, *[dts_pb2.LogRecord(time=now, message=text) for text in ("one", "bad", "two")])
    beats = [dts_pb2.Heartbeat(worker=name, host="h", time=now) for name in ("one", "bad", "two")]
    await hall.send(queues.HEARTBEATS, *beats)
    entries = await hall.until(lambda: hall.store.list_logs(limit=99), lambda found: len(found) == 2)
    assert {entry.message for entry in entries} == {"one", "two"}
    await hall.until(hall.store.list_heartbeats, lambda states: {each.worker for each in states} == {"one", "two"})
    letters = await hall.until(lambda: hall.store.list_dead_letters(limit=9), lambda letters: len(letters) == 2)
    reasons = {letter.queue: letter.reason for letter in letters}
    assert reasons == {
        queues.LOGS: "OverflowError: MongoDB can only handle up to 8-byte ints",
        queues.HEARTBEATS: "ValueError: no",
    }
    assert "cannot be recorded: OverflowError" in caplog.text


async def test_a_dead_letter_that_cannot_be_kept_keeps_none_behind_it_waiting(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = hall.store.add_dead_letters

    async def refuse(letters: Sequence[Any]) -> None:
        if any(letter.body == b"\xff\xfe" for letter in letters):
            raise ValueError("no")
        await add(letters)

    monkeypatch.setattr(hall.store, "add_dead_letters", refuse)
    await hall.send(queues.RESULTS, b"\xff\xfe", b"\xff\xff")
    [letter] = await hall.until(lambda: hall.store.list_dead_letters(limit=9), lambda letters: len(letters) == 1)
    assert letter.body == b"\xff\xff"


async def test_a_store_that_lets_nobody_in_costs_no_results_and_no_dead_letters(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the user of its URL is revoked while daemons run."""
    block, batch = await a_block(hall.store)
    refused: Counter[str] = Counter()

    def refusing(name: str) -> Callable[..., Awaitable[None]]:
        @translating
        async def refuse(*_: object, **__: object) -> None:
            refused[name] += 1
            raise OperationFailure(f"not authorized on dts to execute {name}", 13)

        return refuse

    with monkeypatch.context() as revoked:
        for name in ("record", "add_dead_letters"):
            revoked.setattr(hall.store, name, refusing(name))
        await hall.send(queues.RESULTS, b"\xff\xff", *[batch(n) for n in range(3)])

        async def tries() -> int:
            return min(refused["record"], refused["add_dead_letters"])

        await hall.until(tries, lambda count: count >= 3)
    await hall.until(
        partial(hall.store.get_outcome, block.id), lambda found: found is not None and found.succeeded == 3
    )
    letters = await hall.until(lambda: hall.store.list_dead_letters(limit=9), bool)
    assert [letter.body for letter in letters] == [b"\xff\xff"]
    assert "not authorized" in caplog.text
    assert "cannot be recorded" not in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")])
async def test_what_is_no_fault_of_messages_ends_porter_and_they_stay_on_their_queue(
    urls: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with open_store(urls[0]) as store, open_broker(urls[1]) as broker:
        block, batch = await a_block(store)
        await broker.publish(queues.RESULTS, [Message(batch(n).SerializeToString()) for n in range(3)])
        with monkeypatch.context() as faulty:
            faulty.setattr(store, "record", failing(error))
            async with within(), Porter(store, broker, settings) as porter:
                await porter.failed.wait()
        async with Porter(store, broker, settings) as porter:
            hall = Hall(store, broker, [porter])
            await hall.until(
                partial(store.get_outcome, block.id), lambda found: found is not None and found.succeeded == 3
            )
        assert (await broker.depth(queues.DEAD)).ready == 0


async def test_a_dead_letter_that_cannot_be_kept_for_no_fault_of_its_own_stays_on_its_queue(
    urls: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(urls[0]) as store, open_broker(urls[1]) as broker:
        porter = Porter(store, broker, settings)
        await broker.publish(queues.RESULTS, [Message(b"\xff\xff")])
        with monkeypatch.context() as faulty:
            faulty.setattr(store, "add_dead_letters", failing(MemoryError()))
            async with within(), Timekeeper(store, broker, settings) as timekeeper, porter:
                await timekeeper.failed.wait()
        async with Timekeeper(store, broker, settings) as timekeeper:
            hall = Hall(store, broker, [timekeeper])
            [letter] = await hall.until(lambda: store.list_dead_letters(limit=9), bool)
        assert letter.queue == queues.RESULTS


async def a_block(store: Store) -> tuple[Block, Callable[[int], dts_pb2.ResultBatch]]:
    """A block that is out, and what tells that a job of it has succeeded."""
    run = Run(new_id(), "ann", "a/b", 64, RunState.CLOSED, created=1.0)
    block = replace(new_block(run, 0, run.function, batch_from_arguments([Arguments(b"", b"")] * 9)), published=True)
    await store.add_blocks([block], run=run)

    def succeeded(index: int) -> dts_pb2.ResultBatch:
        results = [dts_pb2.Result(index=index, status=dts_pb2.SUCCEEDED)]
        return dts_pb2.ResultBatch(block=block.id, run=run.id, function="a/b", results=results)

    return block, succeeded


def failing(error: Exception) -> Callable[..., Awaitable[None]]:
    """A method of a store that raises it."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail
