"""A block belongs to the server that accepted it until that has published it, given up, or died."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from dts.broker import Broker, Consumer, Message, open_broker
from dts.config import ServerSettings, load_settings
from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import Block, Claim, Function, Run, new_id
from dts.server.access.parties import PartiesOf
from dts.server.daemons import Timekeeper
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.fleet import Fleet
from dts.server.publish.claims import Claims
from dts.server.publish.marks import Marks
from dts.server.publish.publisher import Publisher
from dts.server.record.blocks import decode_block
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2, queues
from tests.services.waiting import within

CLAIM = 1.0
JOBS = 10


class Slow:
    """A broker on which publishing begins when it is let to, or never works."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def publish(self, queue: str, messages: Sequence[Message], *, timeout: float = 10.0) -> None:
        self.begun.set()
        await self.go.wait()
        if self.broken:
            raise BrokerUnavailable("it is broken")
        await self._broker.publish(queue, messages, timeout=timeout)


@dataclass
class Site:
    """A server's publisher on a slow broker, two timekeepers on the same one as it is, and the queue of both."""

    store: Store
    slow: Slow
    claims: Claims
    publisher: Publisher
    jobs: Consumer
    function: Function

    async def accept(self) -> Block:
        """Store a block as a server does that is going to publish it."""
        run = Run(new_id(), "ann", self.function.name, 100, created=time.time())
        block = new_block(run, 0, run.function, batch_from_arguments([Arguments(b"[1]", b"")] * JOBS))
        claim = await self.publisher.claim([(block, self.function)])
        assert claim is not None
        await self.store.add_blocks([block], run=run, claim=claim)
        self.publisher.submit(block, decode_block(block), self.function, claim)
        return block

    async def taken(self, seconds: float) -> Counter[int]:
        """How often each job of the block comes out of the queue within some seconds."""
        found: Counter[int] = Counter()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for delivery in await self.jobs.receive(100):
                        message = delivery.message
                        batch = codec.decode(dts_pb2.JobBatch, message.body, message.content_encoding)
                        found.update(job.index for job in batch.jobs)
                        await self.jobs.ack([delivery])
        except TimeoutError:
            return found

    async def is_published(self, block: Block) -> None:
        """Wait until the store says that the block is published."""
        async with within():
            while (found := await self.store.get_block(block.id)) is None or not found.published:
                await asyncio.sleep(0.02)


@pytest.fixture
async def site(urls: tuple[str, str]) -> AsyncIterator[Site]:
    route = f"t{uuid.uuid4().hex[:10]}"
    daemons = {"relay_after": CLAIM, "relay_interval": 0.05}
    settings = load_settings(None, environment={}, flags={"daemons": daemons})
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(urls[1]))
        function = Function(f"text/{route}", route=route, mean_duration=0.001)
        await store.add_function(function)
        for _ in range(2):
            own = await stack.enter_async_context(open_store(urls[0]))
            await stack.enter_async_context(Timekeeper(own, broker, settings))
        slow, claims = Slow(broker), Claims(store, CLAIM)
        own_settings = ServerSettings(max_slice=4)
        marks = Marks(slow, Fleet(store), own_settings)  # type: ignore[arg-type]
        publisher = Publisher(
            store,
            slow,  # type: ignore[arg-type]
            own_settings,
            parties_of=PartiesOf(store, Catalogue(store)),
            claims=claims,
            marks=marks,
        )
        jobs = await stack.enter_async_context(await broker.consume(queues.jobs_queue(route), prefetch=100))
        yield Site(store, slow, claims, publisher, jobs, function)


EACH_ONCE = Counter(range(JOBS))


async def test_a_block_that_takes_its_time_is_published_once(site: Site) -> None:
    async with site.claims, site.publisher:
        block = await site.accept()
        await site.slow.begun.wait()
        assert await site.taken(3 * CLAIM) == {}
        site.slow.go.set()
        await site.is_published(block)
    assert await site.taken(2 * CLAIM) == EACH_ONCE


async def test_a_block_of_a_server_that_died_is_published_by_the_dispatcher(site: Site) -> None:
    block = await site.accept()  # and neither claims nor publisher live
    await site.is_published(block)
    assert await site.taken(CLAIM) == EACH_ONCE


async def test_a_block_that_is_given_up_is_published_by_the_dispatcher(site: Site) -> None:
    site.slow.broken = True
    async with site.claims, site.publisher:
        block = await site.accept()
        await site.slow.begun.wait()
        site.slow.go.set()
        await site.is_published(block)
        assert await site.taken(CLAIM) == EACH_ONCE


async def test_a_server_that_was_stopped_past_its_claim_does_not_publish(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.claims, site.publisher:
        first = await site.accept()
        await site.slow.begun.wait()

        async def away(block_ids: Sequence[str], claim: Claim) -> list[str]:
            raise StoreUnavailable("this process is stopped")

        monkeypatch.setattr(site.store, "extend_claims", away)
        late = await site.accept()  # waits behind the first
        await site.is_published(late)
        monkeypatch.undo()
        site.slow.go.set()
    assert await site.taken(CLAIM) == Counter({index: 3 for index in range(JOBS)}), (
        "the first was at the broker when its server was stopped: twice, and the late one once"
    )
    assert await site.claims.sure_of([first.id, late.id]) == set()
