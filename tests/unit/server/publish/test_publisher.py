"""What a server holds of blocks that it publishes."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from dts.broker import Broker, Event, Message, QueueDepth
from dts.config import ServerSettings
from dts.errors import BrokerUnavailable
from dts.model import Block, Claim, Function, Limits, Outcome, Record, Run, User, WorkerState, new_id
from dts.server.access.parties import PartiesOf
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.fleet import Fleet
from dts.server.publish import publisher as module
from dts.server.publish.claims import Claims
from dts.server.publish.marks import Marks
from dts.server.publish.publisher import Publisher
from dts.server.record.blocks import decode_block
from dts.store import Store
from dts.wire.queues import TOPIC_BUSY, TOPIC_LEFT
from tests.services.waiting import within


class Recorder:
    """A broker and a store in one, which remember what they are given and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.published: list[int] = []
        self.marked: list[str] = []
        self.free = asyncio.Event()
        self.away = False
        self.user = User("alice", b"")
        self.ended: dict[str, int] = {}
        self.asked: list[str] = []
        self.first = asyncio.Event()
        self.jobs = 0
        self.said: list[str] = []
        self.released: list[str] = []
        self.waiting = 0

    async def list_records(self, kind: type[Record], **_: Any) -> list[Record]:
        return []  # no routes are paused

    async def publish(self, queue: str, messages: Sequence[Message], **_: Any) -> None:
        self.first.set()
        await self.free.wait()
        if self.away:
            raise BrokerUnavailable
        self.jobs += sum(int(message.headers["count"]) for message in messages)
        self.published.append(sum(len(message.body) for message in messages))

    async def get_outcome(self, block: str) -> Outcome:
        self.asked.append(block)
        ended = self.ended.get(block, 0)
        return Outcome(block, block.rpartition("-")[0], 0, "alice", "text/upper", 3, ended)

    async def get_user(self, user: str) -> User:
        return self.user

    async def get_function(self, name: str) -> None:
        return None

    async def get_record(self, kind: object, record: str) -> None:
        return None

    async def broadcast(self, topic: str, payload: str) -> bool:
        self.said.append(topic)
        return True

    async def subscribe(self, topics: Sequence[str]) -> Recorder:
        return self

    async def get(self) -> None:
        """No event ever comes."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing was opened."""

    async def list_heartbeats(self) -> list[WorkerState]:
        return []

    def now(self) -> float:
        return 0.0

    async def depth(self, queue: str) -> QueueDepth:
        return QueueDepth(self.waiting)

    async def release_claims(self, block_ids: Sequence[str], holder: str) -> None:
        self.released += block_ids

    async def mark_published(self, block_ids: Sequence[str]) -> None:
        self.marked += block_ids


def a_publisher(recorder: Recorder) -> Publisher:
    settings, store, broker = ServerSettings(), cast("Store", recorder), cast("Broker", recorder)
    parties_of, marks = PartiesOf(store, Catalogue(store)), Marks(broker, Fleet(store), settings)
    return Publisher(store, broker, settings, parties_of=parties_of, claims=a_claims(recorder), marks=marks)


def a_claims(recorder: Recorder) -> Claims:
    return Claims(cast("Store", recorder), 60.0)


async def a_claim(publisher: Publisher, block: Block) -> Claim:
    """A claim, also when there is no more room in the queue."""
    return await publisher.claim([(block, None)]) or Claim("me", 60.0)


def a_small_block(jobs: int = 3) -> Block:
    run = Run(new_id(), "alice", "text/upper", 2048)
    return new_block(run, 0, "text/upper", batch_from_arguments([Arguments(b"[1]", b"")] * jobs))


def a_block(size: int) -> Block:
    run = Run(new_id(), "alice", "text/upper", 2048)
    noise = os.urandom(size // 2).hex().encode()
    return new_block(run, 0, "text/upper", batch_from_arguments([Arguments(b'["%s"]' % noise, b"")]))


async def test_blocks_that_wait_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 300_000)
    recorder = Recorder()
    async with a_publisher(recorder) as publisher:
        for number in range(20):
            block = a_block(100_000)
            publisher.submit(block, decode_block(block), None, await a_claim(publisher, block))
            if number == 0:
                await asyncio.sleep(0.01)  # it is on its way, and counts all the same
        recorder.free.set()
    assert 1 < len(recorder.marked) < 7
    assert sum(recorder.published) <= 300_000


async def test_there_is_room_again_when_blocks_are_out_or_left_to_timekeeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 150_000)
    recorder = Recorder()
    recorder.free.set()
    async with a_publisher(recorder) as publisher:
        for number in range(6):
            recorder.away = number < 3
            block = a_block(100_000)
            publisher.submit(block, decode_block(block), None, await a_claim(publisher, block))
            await asyncio.sleep(0.01)
    assert len(recorder.marked) == 3


async def test_an_idle_publisher_holds_nothing() -> None:
    recorder = Recorder()
    recorder.free.set()
    seen: list[weakref.ref[object]] = []

    class Held(list[Message]):
        """A list that can be referred to weakly."""

    async with a_publisher(recorder) as publisher:
        original = module.block_messages

        def watched(*args: Any) -> Any:
            post = original(*args)
            held = Held(post.messages)
            seen.append(weakref.ref(held))
            return type(post)(post.queue, held)

        module.block_messages = watched  # type: ignore[assignment]
        try:
            block = a_block(1000)
            publisher.submit(block, decode_block(block), None, await a_claim(publisher, block))
        finally:
            module.block_messages = original
        async with within():
            while not recorder.marked:
                await asyncio.sleep(0.01)
        gc.collect()
        assert [ref() for ref in seen] == [None]


async def test_what_has_a_limit_or_is_paused_is_left_to_the_dispatcher() -> None:
    user = User("alice", b"")
    for held in (replace(user, limits=Limits(running=1)), replace(user, paused=True)):
        recorder = Recorder()
        recorder.user = held
        async with a_publisher(recorder) as publisher:
            assert await publisher.claim([(a_block(100), None)]) is None
    async with a_publisher(Recorder()) as publisher:
        assert await publisher.claim([(a_block(100), None)]) is not None


async def test_what_has_no_room_in_its_queue_is_left_to_the_dispatcher() -> None:
    recorder = Recorder()
    recorder.free.set()
    recorder.waiting = 1000
    async with a_publisher(recorder) as publisher:
        blocks = [a_block(100) for _ in range(5)]
        claims = [await publisher.claim([(block, None)]) for block in blocks]
        assert claims[0] is not None
        assert claims[-1] is None
        for block, claim in zip(blocks, claims, strict=True):
            publisher.submit(block, decode_block(block), None, claim)
        async with within():
            while TOPIC_LEFT not in recorder.said:
                await asyncio.sleep(0.01)
        recorder.waiting = 0
        async with within():
            while await publisher.claim([(blocks[0], None)]) is None:
                await asyncio.sleep(0.01)
    assert set(recorder.marked) == {block.id for block, claim in zip(blocks, claims, strict=True) if claim}


async def test_while_a_route_has_a_backlog_all_that_is_for_it_is_left_to_the_dispatcher() -> None:
    recorder = Recorder()
    async with a_publisher(recorder) as publisher:
        block = a_block(100)
        publisher.on_event(Event(TOPIC_BUSY, "far default"))
        assert await publisher.claim([(block, None)]) is None
        assert await publisher.claim([(block, Function("text/upper", route="other"))]) is not None
        publisher.on_event(Event(TOPIC_BUSY, ""))
        assert await publisher.claim([(block, None)]) is not None


async def test_a_block_that_waited_is_left_to_timekeeper_when_jobs_of_it_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    first, ended, late = a_small_block(), a_small_block(), a_small_block()
    async with a_publisher(recorder) as publisher:
        publisher.submit(first, decode_block(first), None, await a_claim(publisher, first))
        async with within():
            await recorder.first.wait()  # and the others wait behind it
        assert recorder.asked == [], "a fresh block costs no read"
        for block in (ended, late):
            publisher.submit(block, decode_block(block), None, await a_claim(publisher, block))
        recorder.ended = {ended.id: 0b001}
        monkeypatch.setattr(module, "_FRESH", 0.0)
        recorder.free.set()
    assert recorder.asked == [ended.id, late.id]
    assert sorted(recorder.marked) == sorted([first.id, late.id])
