"""What a job costs in the worker: processor time of the parent and of the children, and the latency of one job.

    python -m benchmarks.worker [--jobs N] [--slice N] [--processes N] [--memory] [--function ns/func]

The broker is a list in memory, so that what is measured is the worker alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import deque
from collections.abc import Sequence

import psutil
import uvloop

from dts.broker.abc import Broker, Consumer, Delivery, Event, Message, QueueDepth, Subscription
from dts.config import WorkerSettings
from dts.model import new_id
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.wire.queues import RESULTS, TOPIC_CANCELLED, end_of_answer
from dts.worker.worker import Worker


class MemoryConsumer(Consumer):
    """Gives out the messages of a broker in memory; counts the settled ones."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._cancelled = False

    async def receive(self, max_messages: int = 1) -> list[Delivery]:
        while not self._broker.jobs and not self._cancelled:
            self._broker.published.clear()
            await self._broker.published.wait()
        if self._cancelled:
            return []
        count = min(max_messages, len(self._broker.jobs))
        return [Delivery(self._broker.jobs.popleft(), "jobs", None) for _ in range(count)]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._broker.acked += len(deliveries)
        self._broker.progress.set()

    async def nack(self, deliveries: Sequence[Delivery]) -> None:
        raise NotImplementedError

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        self._broker.give([delivery.message for delivery in deliveries])

    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        raise NotImplementedError

    async def cancel(self) -> None:
        self._cancelled = True
        self._broker.published.set()

    async def close(self) -> None:
        """Nothing to give back."""


class MemorySubscription(Subscription):
    """Has the events that its broker puts in it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.missed = asyncio.Event()

    async def listening(self) -> None:
        """Always."""

    async def get(self) -> Event | None:
        return await self.events.get()

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryBroker(Broker):
    """A queue of jobs and a count of results."""

    def __init__(self) -> None:
        self.jobs: deque[Message] = deque()
        self.published = asyncio.Event()
        self.progress = asyncio.Event()
        self.acked = 0
        self.results = 0
        self.result_bytes = 0
        self._subscription = MemorySubscription()

    @property
    def kind(self) -> str:
        return "memory"

    async def start(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def ping(self) -> None:
        """Always there."""

    async def declare(self, queues: Sequence[str]) -> None:
        """Queues need no making."""

    async def publish(self, queue: str, messages: Sequence[Message], *, timeout: float = 30.0) -> None:
        if queue != RESULTS:  # jobs that a child has given away
            self.give(messages)
            return
        self.results += sum(int(message.headers["count"]) for message in messages)
        self.result_bytes += sum(len(message.body) for message in messages)

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        return MemoryConsumer(self)

    async def depth(self, queue: str) -> QueueDepth:
        return QueueDepth(len(self.jobs))

    async def broadcast(self, topic: str, payload: str) -> bool:
        """Answers the worker's question what was cancelled: nothing."""
        self._subscription.events.put_nowait(Event(TOPIC_CANCELLED, end_of_answer(payload)))
        return True

    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        return self._subscription

    def give(self, messages: Sequence[Message]) -> None:
        """Put messages on the queue."""
        self.jobs.extend(messages)
        self.published.set()

    async def wait_acked(self, count: int) -> None:
        """Wait until so many messages have been acked."""
        while self.acked < count:
            self.progress.clear()
            await self.progress.wait()


def make_message(function: str, first: int, count: int) -> Message:
    """A message with jobs whose argument is a short line of text."""
    run = new_id()
    batch = JobBatch(block=f"{run}-0", run=run, function=function)
    for index in range(first, first + count):
        batch.jobs.add(index=index, args=b'["the quick brown fox number %d"]' % index)
    body, encoding = codec.encode(batch)
    return Message(body, encoding, {"block": batch.block, "run": run, "function": function, "count": count})


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time that processes have used so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


async def measure(options: argparse.Namespace) -> None:
    broker = MemoryBroker()
    began = time.perf_counter()
    async with Worker(WorkerSettings(processes=options.processes), broker) as worker:
        broker.give([make_message(options.function, 0, 1)])
        await broker.wait_acked(1)
        print(f"first result after      {(time.perf_counter() - began) * 1e3:8.1f} ms")
        await _latency(broker, options)
        for size in (options.slice, 1):
            await _throughput(broker, worker, options, size)
        if options.memory:
            await _memory(broker, worker, options)


async def _latency(broker: MemoryBroker, options: argparse.Namespace) -> None:
    times = []
    for _ in range(500):
        message = make_message(options.function, 0, 1)
        began = time.perf_counter()
        broker.give([message])
        await broker.wait_acked(broker.acked + 1)
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    print(f"one job, there and back {statistics.median(times):8.2f} ms (p99 {times[494]:.2f} ms)")


async def _throughput(broker: MemoryBroker, worker: Worker, options: argparse.Namespace, size: int) -> None:
    count = max(options.jobs // size // (1 if size > 1 else 20), 1)
    messages = [make_message(options.function, i * size, size) for i in range(count)]
    children, done = worker.executor.pids, broker.acked
    before, before_children = time.process_time(), cpu_seconds(children)
    began = time.perf_counter()
    broker.give(messages)
    await broker.wait_acked(done + count)
    wall = time.perf_counter() - began
    jobs = count * size
    parent, child = time.process_time() - before, cpu_seconds(children) - before_children
    print(
        f"{size:4} jobs a message: {jobs / wall:9.0f} jobs/s, {child / jobs * 1e6:7.2f} µs a job in children, "
        f"{parent / jobs * 1e6:6.2f} µs in the parent ({parent / count * 1e6:.0f} µs a message)"
    )


async def _memory(broker: MemoryBroker, worker: Worker, options: argparse.Namespace) -> None:
    """A million jobs, and the memory of the worker and its children after the first ten thousand and at the end."""
    size, step = options.slice, 10_000
    for number in range(100):
        messages = [make_message(options.function, n * size, size) for n in range(step // size)]
        done = broker.acked
        broker.give(messages)
        await broker.wait_acked(done + len(messages))
        if number in (0, 99):
            parent = psutil.Process().memory_info().rss / 2**20
            children = sum(psutil.Process(pid).memory_info().rss for pid in worker.executor.pids) / 2**20
            jobs = (number + 1) * len(messages) * size
            print(f"after {jobs:9} jobs: worker {parent:.1f} MB, children {children:.1f} MB")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500_000)
    parser.add_argument("--slice", type=int, default=256)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="a million jobs more, and the memory that they take")
    parser.add_argument("--function", default="text/upper")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
