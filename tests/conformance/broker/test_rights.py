"""Users with the permissions that docs/security.md has for each role."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dts.broker import Message, open_broker
from dts.wire.queues import DEAD, HEARTBEATS, LOGS, RESULTS, TOPIC_CANCELLED, jobs_queue
from dts.worker.telemetry.rights import describe_excess
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import within

PAGE = Path(__file__).parents[3] / "docs/security.md"


def permissions(role: str) -> list[str]:
    """The three patterns of a row of the page's table."""
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {role}")]
    return [pattern.replace("\\|", "|") for pattern in re.findall(r"`(\S+)` \|", row.partition(" | ")[2])]


@pytest.fixture
def urls(rabbit: RabbitServer) -> dict[str, str]:
    """URLs by role, in a vhost of its own."""
    found = {}
    rabbit.add_vhost("rights")
    for name, role in (("server", "servers and daemons"), ("worker", "workers of the route `default`")):
        configure, write, read = permissions(role)
        rabbit.add_user(name, "secret")
        rabbit.permit(name, "rights", configure, write, read)
        found[name] = f"amqp://{name}:secret@127.0.0.1:{rabbit.port}/rights"
    found["guest"] = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/rights"
    return found


async def test_each_role_can_do_its_work_and_a_worker_cannot_take_others_messages(urls: dict[str, str]) -> None:
    jobs = jobs_queue("default")
    async with within(), open_broker(urls["server"]) as server:
        await server.declare([DEAD, RESULTS, HEARTBEATS, LOGS, jobs, jobs_queue("server")])
        async with (
            open_broker(urls["worker"]) as worker,
            await worker.subscribe([TOPIC_CANCELLED]) as events,
            await worker.consume(jobs, prefetch=10) as consumer,
        ):
            await server.publish(jobs, [Message(b"work")])
            [delivery] = await consumer.receive()
            for queue in (RESULTS, HEARTBEATS, LOGS, jobs):
                await worker.publish(queue, [Message(b"result")])
            await consumer.reject([delivery], "cannot be read")
            await server.broadcast(TOPIC_CANCELLED, "run")
            assert (await events.get()) is not None
            assert await worker.broadcast("cancelled?", "word")
            async with await server.consume(DEAD, prefetch=1) as dead:
                assert (await dead.receive())[0].message.body == b"work"
            assert await worker.may_read(jobs)
            assert await describe_excess(worker) == ""
            for queue in (RESULTS, HEARTBEATS, LOGS, DEAD, jobs_queue("server"), "dts.jobs.others"):
                assert not await worker.may_read(queue), queue
        async with open_broker(urls["guest"]) as guest:
            assert RESULTS in await describe_excess(guest)
            assert await guest.may_read(RESULTS)
        assert (await server.depth(RESULTS)).ready == 1, "to ask takes no message"


async def test_the_embedded_broker_has_no_users(tmp_path: Path) -> None:
    async with open_broker(f"sqlite:///{tmp_path}/queue.db") as broker:
        assert await describe_excess(broker) == ""
