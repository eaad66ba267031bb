"""Messages that cannot be unpacked, as other programs may leave: each costs itself alone, and ends as a dead letter."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from dts.broker import Broker, Message, open_broker, origin
from dts.broker.amqp.channel import Channel
from dts.broker.amqp.link import connect
from dts.broker.amqp.url import parse_amqp_url
from dts.wire.queues import DEAD
from tests.conformance.broker.helpers import bodies, messages, take
from tests.services.rabbitmq import RabbitServer

Spoil = Callable[[str], Awaitable[None]]

FLAG_HEADERS, FLAG_TIMESTAMP, FLAG_ENCODING = 1 << 13, 1 << 6, 1 << 14
PROPERTIES = {
    "a time that no calendar has": (FLAG_TIMESTAMP, struct.pack(">Q", 2**63 - 1)),
    "an encoding that is no text": (FLAG_ENCODING, b"\x02\xff\xfe"),
    "a header with such a time": (FLAG_HEADERS, struct.pack(">I", 11) + b"\x01hT" + struct.pack(">Q", 2**62)),
    "a header whose name is no text": (FLAG_HEADERS, struct.pack(">I", 7) + b"\x01\xffI" + struct.pack(">i", 1)),
}
COLUMNS = {
    "headers that are no JSON": ("", "{", b"spoiled"),
    "headers that are no object": ("", "[1]", b"spoiled"),
    "headers that are bytes": ("", b"\xff", b"spoiled"),
    "a body that is a number": ("", "{}", 7),
    "an encoding that is a number": (7, "{}", b"spoiled"),
}


async def has_them_dead_and_the_others_taken(broker: Broker, queue: str) -> None:
    """Take what is there as a reader does that rejects what it does not know."""
    async with await broker.consume(queue, prefetch=1) as consumer:
        found = []
        while len(found) < 3:
            [delivery] = await take(consumer, 1)
            found += bodies([delivery])
            if found[-1] in ("before", "after"):
                await consumer.ack([delivery])
            else:
                await consumer.reject([delivery], "unreadable")
    assert found[0] == "before"
    assert found[2] == "after"
    async with await broker.consume(DEAD, prefetch=1) as consumer:
        [letter] = await take(consumer, 1)
        dead = origin(letter.message)
        assert dead is not None
        assert (dead.queue, dead.reason) == (queue, "unreadable")
        await consumer.ack([letter])


@pytest.mark.parametrize("flags_and_data", PROPERTIES.values(), ids=PROPERTIES)
async def test_properties_that_cannot_be_read_on_rabbitmq(
    rabbit: RabbitServer, queue: str, flags_and_data: tuple[int, bytes]
) -> None:
    async with open_broker(rabbit.url) as broker:
        await broker.publish(queue, messages("before"))
        url = parse_amqp_url(rabbit.url)
        connection = await connect(url, url.nodes[0], "spoiling")
        channel: Channel = await connection.channel()
        flags, data = flags_and_data
        header = channel._frame(2, struct.pack(">HHQH", 60, 0, 7, flags) + data)
        method = channel._publish_method("", queue, mandatory=False)
        channel._write(method + header + channel._frame(3, b"spoiled"))
        await channel.queue_declare(queue, passive=True)  # answered after what was written before it
        await connection.shut()
        await broker.publish(queue, messages("after"))
        await has_them_dead_and_the_others_taken(broker, queue)


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
async def test_rows_that_cannot_be_read_in_a_queue_file(
    tmp_path: Path, queue: str, columns: tuple[object, object, object]
) -> None:
    path = tmp_path / "queue.db"
    async with open_broker(f"sqlite:///{path}") as broker:
        await broker.publish(queue, [Message(b"before"), Message(b"spoiled")])
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(
                "UPDATE content SET encoding = ?, headers = ?, body = ? WHERE id = (SELECT max(id) FROM content)",
                columns,
            )
        await broker.publish(queue, messages("after"))
        await has_them_dead_and_the_others_taken(broker, queue)


async def test_what_nobody_settles_is_dead_after_its_limit(url: str, broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("kills"))
    for count in range(3):
        async with await broker.consume(queue, prefetch=1) as consumer:
            [delivery] = await take(consumer, 1)
            assert delivery.count == count
    async with await broker.consume(DEAD, prefetch=1) as consumer:
        [letter] = await take(consumer, 1)
        assert bodies([letter]) == ["kills"]
        await consumer.ack([letter])
