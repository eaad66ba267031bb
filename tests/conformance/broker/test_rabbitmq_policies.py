"""What operators do to a RabbitMQ that DTS has not for itself: policies of theirs, and a second installation."""

from __future__ import annotations

import asyncio

import pytest

from dts.broker import Message, open_broker, origin
from dts.broker.abc import REASON_EXPIRED
from dts.broker.amqp.link import INSTALLATION_QUEUE
from dts.errors import ConfigError
from dts.wire.queues import DEAD
from tests.services.rabbitmq import RabbitServer


@pytest.fixture
def vhost(rabbit: RabbitServer, queue: str) -> str:
    """A virtual host of the test's own."""
    name = queue.replace(".", "-")
    rabbit.control("add_vhost", name)
    rabbit.control("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    return name


async def test_the_queues_of_one_installation_are_refused_to_another(rabbit: RabbitServer, vhost: str) -> None:
    async with open_broker(rabbit.url + vhost) as broker, open_broker(rabbit.url + vhost) as second:
        await broker.claim_for(b"ours")
        await second.claim_for(b"ours")
        with pytest.raises(ConfigError, match="another installation: give each a virtual host of its own") as refused:
            await second.claim_for(b"theirs")
        assert INSTALLATION_QUEUE in refused.value.message
        rabbit.control("delete_queue", "-p", vhost, INSTALLATION_QUEUE)
        await second.claim_for(b"theirs")


async def test_a_message_that_a_policy_drops_says_so(rabbit: RabbitServer, vhost: str) -> None:
    rabbit.control("set_policy", "-p", vhost, "ttl", "^dts", '{"message-ttl":1}', "--apply-to", "queues")
    async with asyncio.timeout(120), open_broker(rabbit.url + vhost) as broker:
        dead = await broker.consume(DEAD, prefetch=1)
        await broker.publish("dts.jobs.default", [Message(b"one", "", {"run": "r"})])
        [letter] = await dead.receive()
        came = origin(letter.message)
        assert came is not None
        assert (came.queue, came.reason) == ("dts.jobs.default", REASON_EXPIRED)
        assert letter.message.headers["run"] == "r"
        await dead.ack([letter])
