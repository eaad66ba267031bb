"""Slow and fast jobs in one queue: how near the whole comes to the ideal, whether fast ones wait behind slow ones, and
what each child does when.

    python -m benchmarks.mixed [--processes N] [--unknown]

A worker on the embedded broker, with results taken off its queue as porter does. Jobs sleep, so the children are busy
without needing a processor each. Messages are sized as the server does it for functions whose speed it knows; with
`--unknown` all jobs are of one function that has never run, in messages as they come then, slow and fast ones mixed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from dts.broker import Broker, Consumer, Message, open_broker
from dts.config import ServerSettings, WorkerSettings
from dts.model import Function, new_id
from dts.server.publish.slices import slice_size
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch, ResultBatch
from dts.wire.queues import RESULTS, TOPIC_CANCELLED, TOPIC_CANCELLED_WHICH, end_of_answer, jobs_queue
from dts.worker.worker import Worker

CODE = """\
import os, time
def main(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return [os.getpid(), began, time.monotonic()]
"""
KINDS = {"fast": (10_000, 0.0001), "medium": (100, 0.01), "slow": (100, 2.0)}
"""How many jobs of a kind there are, and how many seconds each takes."""
BIN = 0.25
"""Seconds of one character of the picture."""
_SHADES = " ░▒▓█"


@dataclass(frozen=True, slots=True)
class Done:
    """A job that has ended: which child ran it, from when to when (monotonic), and when its result was there."""

    kind: str
    child: int
    began: float
    ended: float
    heard: float


def make_messages(*, unknown: bool, seed: int = 7) -> list[Message]:
    """All jobs as messages, in an order by chance."""
    chance = random.Random(seed)
    jobs = [kind for kind, (count, _) in KINDS.items() for _ in range(count)]
    groups: list[list[str]] = []
    if unknown:
        chance.shuffle(jobs)
        groups = list(_cut(jobs, None))
    else:
        for kind, (_, seconds) in KINDS.items():
            groups += _cut([job for job in jobs if job == kind], seconds)
        chance.shuffle(groups)
    run = new_id()
    return [_message(run, number, group) for number, group in enumerate(groups)]


def _cut(jobs: list[str], seconds: float | None) -> Iterator[list[str]]:
    settings = ServerSettings()
    function = Function("bench/nap", mean_duration=seconds)
    size = slice_size(function, seconds=settings.slice_seconds, max_slice=settings.max_slice)
    for first in range(0, len(jobs), size):
        yield jobs[first : first + size]


def _message(run: str, number: int, group: list[str]) -> Message:
    batch = JobBatch(block=f"{run}-{number}", run=run, function="bench/nap")
    for index, kind in enumerate(group):
        batch.jobs.add(index=index, args=msgspec.json.encode([KINDS[kind][1]]))
    body, encoding = codec.encode(batch)
    headers: dict[str, str | int] = {"block": batch.block, "run": run, "function": batch.function, "count": len(group)}
    return Message(body, encoding, headers)


async def collect(results: Consumer, count: int) -> list[Done]:
    """Take results off their queue until so many jobs have ended."""
    done: list[Done] = []
    kinds = sorted(KINDS, key=lambda kind: KINDS[kind][1], reverse=True)
    while len(done) < count:
        deliveries = await results.receive(64)
        heard = time.monotonic()
        for delivery in deliveries:
            batch = codec.decode(ResultBatch, delivery.message.body, delivery.message.content_encoding)
            for result in batch.results:
                child, began, ended = msgspec.json.decode(result.value, type=tuple[int, float, float])
                kind = next(kind for kind in kinds if ended - began >= KINDS[kind][1])
                done.append(Done(kind, child, began, ended, heard))
        await results.ack(deliveries)
    return done


async def answer(broker: Broker) -> None:
    """Tell the worker that nothing is cancelled, as timekeeper does."""
    async with await broker.subscribe([TOPIC_CANCELLED_WHICH]) as questions:
        while (question := await questions.get()) is not None:
            await broker.broadcast(TOPIC_CANCELLED, end_of_answer(question.payload))


def deploy(folder: str) -> str:
    """A functions directory with the one function."""
    namespace = Path(folder, "functions", "bench")
    namespace.mkdir(parents=True)
    Path(namespace, "nap.py").write_text(CODE)
    return str(namespace.parent)


async def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = WorkerSettings(processes=options.processes, functions=deploy(folder))
        async with (
            open_broker(f"sqlite:///{folder}/queue.db") as broker,
            await broker.consume(RESULTS, prefetch=256) as results,
        ):
            answering = asyncio.create_task(answer(broker))
            async with Worker(settings, broker):
                await broker.publish(jobs_queue("default"), [_message(new_id(), n, ["medium"] * 5) for n in range(200)])
                await collect(results, 1000)  # so that all children are up, and the module is imported
                began = time.monotonic()
                await broker.publish(jobs_queue("default"), make_messages(unknown=options.unknown))
                done = await collect(results, sum(count for count, _ in KINDS.values()))
            answering.cancel()
    report(done, began, options.processes)


def report(done: list[Done], began: float, processes: int) -> None:
    """Print what came of it; `began` is when the jobs were published."""
    total = max(each.heard for each in done) - began
    ideal = sum(count * seconds for count, seconds in KINDS.values()) / processes
    busy = sum(each.ended - each.began for each in done) / processes
    print(f"{len(done)} jobs, {processes} children: {total:.2f} s")
    print(f"ideal, the work over the children: {ideal:.2f} s, ratio {total / ideal:.3f}")
    print(f"children busy with jobs: {100 * busy / total:.1f} % of the time")
    print(f"{'kind':8}{'jobs':>7}{'seconds':>9}   seconds until the result was there: p50, p90, p99, last")
    for kind, (count, seconds) in KINDS.items():
        waits = sorted(each.heard - began for each in done if each.kind == kind)
        parts = statistics.quantiles(waits, n=100, method="inclusive")
        print(f"{kind:8}{count:7}{seconds:9g}   {parts[49]:7.2f}{parts[89]:7.2f}{parts[98]:7.2f}{waits[-1]:7.2f}")
    print(f"\nA row is a child, a character {BIN:g} s; the darker, the busier; S where it is at a slow job.")
    for row in timeline(done, began, total):
        print(f"|{row}|")


def timeline(done: list[Done], began: float, total: float) -> list[str]:
    """One line of text for each child."""
    bins = int(total / BIN) + 1
    shares: defaultdict[int, list[float]] = defaultdict(lambda: [0.0] * bins)
    slow: defaultdict[int, set[int]] = defaultdict(set)
    for each in done:
        first, last = int((each.began - began) / BIN), int((each.ended - began) / BIN)
        for at in range(first, min(last, bins - 1) + 1):
            start, end = began + at * BIN, began + (at + 1) * BIN
            share = (min(each.ended, end) - max(each.began, start)) / BIN
            shares[each.child][at] += share
            if each.kind == "slow" and share > 0.5:
                slow[each.child].add(at)
    return [
        "".join(
            "S" if at in slow[child] else _SHADES[min(round(share * (len(_SHADES) - 1)), len(_SHADES) - 1)]
            for at, share in enumerate(row)
        )
        for child, row in sorted(shares.items())
    ]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=20, help="children (default: 20)")
    parser.add_argument("--unknown", action="store_true", help="one function whose speed is not known")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
