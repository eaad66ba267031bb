"""What somebody can try who has the URL of the broker and nothing else of a fleet.

    python -m tests.services.url_alone BROKER_URL RUN BLOCK FUNCTION

RUN, BLOCK and FUNCTION are those of a job that waits on the queue `dts.jobs.default`. Everything here is expected to be
refused; `tests/acceptance/test_url_alone.py` looks at what came of it. Prints what it has published, a line each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dts.broker import Broker, Delivery, Message, open_broker
from dts.wire import codec, dts_pb2
from dts.wire.queues import (
    DEAD,
    HEARTBEATS,
    LOGS,
    RESULTS,
    TOPIC_CANCELLED,
    TOPIC_PROGRESS,
    TOPIC_RESULTS,
    TOPIC_SPEEDS,
    jobs_queue,
)

DEFAULT, PLUGINS = jobs_queue("default"), jobs_queue("server")
BREAKS_OUT = b'"forged", "state": "succeeded", "owner": "nobody"'


@dataclass(frozen=True)
class Victim:
    """A job that waits."""

    run: str
    block: str
    function: str

    @property
    def headers(self) -> dict[str, str | int]:
        """Headers as a worker writes them."""
        return {"block": self.block, "run": self.run, "function": self.function, "count": 1, "first": 0, "number": 0}


def forged(victim: Victim) -> Iterator[tuple[str, str, Message]]:
    """Messages made up from nothing: what each tries, its queue, the message."""
    order = dts_pb2.JobBatch(block=victim.block, run=victim.run, function="server/ping")
    order.jobs.add(index=0)
    yield "run a plugin", PLUGINS, Message(*codec.encode(order), victim.headers | {"function": "server/ping"})
    order.function = "text/reverse"
    order.jobs[0].args = b'["forged"]'
    yield "run another function in its place", DEFAULT, Message(*codec.encode(order), victim.headers)
    results = dts_pb2.ResultBatch(block=victim.block, run=victim.run, function=victim.function, worker="forger")
    results.results.add(index=0, status=dts_pb2.SUCCEEDED, value=BREAKS_OUT)
    yield "report its result", RESULTS, Message(*codec.encode(results), victim.headers)
    results.results[0].value = b'"forged"'
    sealed = victim.headers | {"x-dts-seal": f"{'0' * 8}:{'0' * 32}"}
    yield "report its result with a seal made up", RESULTS, Message(*codec.encode(results), sealed)
    beat = dts_pb2.Heartbeat(worker="forger", host="forger", time=time.time(), routes=["default"], state="working")
    yield "be a host", HEARTBEATS, Message(*codec.encode(beat))
    record = dts_pb2.LogRecord(host="forger", source="forger", time=time.time(), level=50, message="forged")
    yield "write into the logs", LOGS, Message(*codec.encode(record))
    order.jobs[0].args = b'["dead"]'
    dead = victim.headers | {"x-dts-queue": DEFAULT, "x-dts-reason": "forged"}
    yield "have it end as a dead letter", DEAD, Message(*codec.encode(order), dead)
    yield "be rubbish", RESULTS, Message(b"\xff" * 100, "deflate", {"run": "\u2028", "count": -1})


def misused(genuine: Message, victim: Victim) -> Iterator[tuple[str, str, Message]]:
    """A genuine message, altered or elsewhere."""
    batch = codec.decode(dts_pb2.JobBatch, genuine.body, genuine.content_encoding)
    yield "move a genuine message to the plugins", PLUGINS, genuine
    batch.function = "server/ping"
    yield "alter a genuine message", PLUGINS, replace(genuine, body=batch.SerializeToString(), content_encoding="")
    batch.function = victim.function
    batch.jobs[0].args = b'["altered"]'
    yield "alter its arguments", DEFAULT, replace(genuine, body=batch.SerializeToString(), content_encoding="")
    yield "pass it off as a result", RESULTS, genuine
    function = {**genuine.headers, "function": "text/reverse"}
    yield "alter a header", DEFAULT, replace(genuine, headers=function)


def events(victim: Victim) -> Iterator[tuple[str, str]]:
    """Events made up: topics and payloads."""
    yield TOPIC_CANCELLED, victim.run
    yield TOPIC_CANCELLED, f"{'0' * 8}:{'0' * 32} {victim.run}"
    yield TOPIC_RESULTS, victim.run
    yield TOPIC_SPEEDS, json.dumps({victim.function: [1e9, False]})
    yield TOPIC_PROGRESS, json.dumps({f"{victim.block}.0": [1, 2, ["forged"], ""]})


async def overhear(broker: Broker) -> Message:
    """A genuine message of the jobs queue, which is given back."""
    async with asyncio.timeout(30), await broker.consume(DEFAULT, prefetch=1) as consumer:
        taken: list[Delivery] = await consumer.receive()
        await consumer.nack(taken)
    return taken[0].message


async def attack(url: str, victim: Victim) -> None:
    """Try everything."""
    async with open_broker(url) as broker:
        genuine = await overhear(broker)
        for what, queue, message in (*forged(victim), *misused(genuine, victim)):
            await broker.publish(queue, [message])
            print(f"{queue}: {what}")  # noqa: T201
        for topic, payload in events(victim):
            await broker.broadcast(topic, payload)
            print(f"event {topic}: {payload}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1], Victim(*sys.argv[2:])))
