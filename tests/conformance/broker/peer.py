"""Another process that uses the broker: `python -m tests.conformance.broker.peer URL COMMAND ARGUMENTS…`.

It prints a line for each thing that happened, so that a test can wait for it:

    hold QUEUE COUNT               takes COUNT messages and keeps them: a line with each body
    hold-forked QUEUE COUNT        the same, and has a forked child that lives on: the first line is its process id
    work QUEUE PREFETCH            takes and acks messages for ever: a line with each body, before the ack
    settle-late QUEUE              takes a message, acks it on a line of input, then prints what depth it sees
    publish QUEUE NAME COUNT SIZE  publishes NAME-0 … in batches of SIZE, then prints "published"
    listen TOPIC                   prints "listening", then the payload of each event
    broadcast TOPIC PAYLOAD        tells it ten times a second, until its input ends
    offer QUEUE                    publishes a message, and ends
    give-back QUEUE                takes a message, prints "taken", gives it back on a line of input, and ends
    die-at POINT COMMAND …         does that, and kills itself as soon as it is at one of `POINTS`
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import Self

import uvloop

from dts.broker import Broker, Message, open_broker
from tests.services.kill_points import POINTS
from tests.services.waiting import within


class Peer:
    """A process that runs this module, seen from the test."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *arguments: str) -> Self:
        """Start it; it ends with the test at the latest, when its input is closed."""
        return cls(
            await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, *arguments, stdin=PIPE, stdout=PIPE)
        )

    async def line(self) -> str:
        """The next line that it prints; empty when it has ended."""
        assert self._process.stdout is not None
        async with within():
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    async def lines(self) -> list[str]:
        """All lines until it ends."""
        assert self._process.stdout is not None
        async with within():
            return (await self._process.stdout.read()).decode().splitlines()

    def tell(self, line: str = "") -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def hold(broker: Broker, queue: str, count: str) -> None:
    consumer = await broker.consume(queue, prefetch=int(count))
    left = int(count)
    while left:
        for delivery in await consumer.receive(left):
            say(delivery.message.body.decode())
            left -= 1
    await asyncio.Event().wait()


async def hold_forked(broker: Broker, queue: str, count: str) -> None:
    child = os.fork()
    if not child:
        signal.pause()
    say(str(child))
    await hold(broker, queue, count)


async def work(broker: Broker, queue: str, prefetch: str) -> None:
    consumer = await broker.consume(queue, prefetch=int(prefetch))
    while deliveries := await consumer.receive(int(prefetch)):
        for delivery in deliveries:
            say(delivery.message.body.decode())
        await consumer.ack(deliveries)


async def settle_late(broker: Broker, queue: str) -> None:
    consumer = await broker.consume(queue, prefetch=1)
    taken = await consumer.receive()
    say(taken[0].message.body.decode())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await consumer.ack(taken)
    await consumer.close()
    say("settled")


async def publish(broker: Broker, queue: str, name: str, count: str, size: str) -> None:
    for start in range(0, int(count), int(size)):
        batch = [Message(f"{name}-{number}".encode()) for number in range(start, start + int(size))]
        await broker.publish(queue, batch)
    say("published")


async def listen(broker: Broker, topic: str) -> None:
    subscription = await broker.subscribe([topic])
    say("listening")
    while event := await subscription.get():
        say(event.payload)


async def broadcast(broker: Broker, topic: str, payload: str) -> None:
    input_ends = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not input_ends.done():
        await broker.broadcast(topic, payload)
        await asyncio.wait((input_ends,), timeout=0.1)


async def give_back(broker: Broker, queue: str) -> None:
    consumer = await broker.consume(queue, prefetch=1)
    taken = await consumer.receive()
    say("taken")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await consumer.nack(taken)


async def offer(broker: Broker, queue: str) -> None:
    consumer = await broker.consume(f"{queue}.none", prefetch=1)
    await broker.publish(queue, [Message(b"offered")])
    await consumer.close()


async def main(url: str, command: str, *rest: str) -> None:
    arguments = list(rest)
    if command == "die-at":
        POINTS[arguments[0]]()
        command, *arguments = arguments[1:]
    commands = (give_back, offer, hold, hold_forked, work, settle_late, publish, listen, broadcast)
    do = {known.__name__.replace("_", "-"): known for known in commands}[command]
    async with open_broker(url) as broker:
        await do(broker, *arguments)  # type: ignore[operator]


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
