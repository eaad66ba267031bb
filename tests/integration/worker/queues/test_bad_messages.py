"""Whatever is in a message costs that message alone: it is answered, or a dead letter, and the worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dts.broker import Broker, Message, open_broker, origin
from dts.config import WorkerSettings
from dts.wire import codec
from dts.wire.dts_pb2 import Job, JobBatch, Options, ResultBatch
from dts.wire.queues import DEAD, RESULTS, TOPIC_CANCELLED, TOPIC_CANCELLED_WHICH, end_of_answer, jobs_queue
from dts.worker.link.frames import Frame, FrameReader, Kind, pack_header
from dts.worker.pool.recovery import Recoverer
from dts.worker.queues import deliveries
from dts.worker.worker import Worker
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import until, within

JOBS = jobs_queue("default")
INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=["sqlite", "amqp"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker with its queues empty, where a timekeeper says that nothing is cancelled."""
    if request.param == "amqp":
        server: RabbitServer = request.getfixturevalue("rabbit")
        url = server.url
    else:
        url = f"sqlite:///{tmp_path}/queue.db"
    async with open_broker(url) as opened, await opened.subscribe([TOPIC_CANCELLED_WHICH]) as questions:

        async def answer() -> None:
            while (question := await questions.get()) is not None:
                await opened.broadcast(TOPIC_CANCELLED, end_of_answer(question.payload))

        answering = asyncio.create_task(answer())
        for queue in (JOBS, RESULTS, DEAD):
            await empty(opened, queue)
        yield opened
        answering.cancel()


async def empty(broker: Broker, queue: str) -> None:
    async with await broker.consume(queue, prefetch=100) as consumer:
        while (await broker.depth(queue)).ready:
            await consumer.ack(await consumer.receive(100))


def batch(*, run: str = "bad", function: str = "text/upper", **job: object) -> JobBatch:
    made = JobBatch(block=f"{run}-0", run=run, function=function)
    made.jobs.append(Job(args=b'["a"]', **job))  # type: ignore[arg-type]
    return made


def message(made: JobBatch, **headers: object) -> Message:
    usual = {"block": made.block, "run": made.run, "function": made.function, "count": len(made.jobs), "number": 0}
    return Message(*codec.encode(made), usual | headers)  # type: ignore[arg-type]


OPTIONS = [
    *({"timeout": value} for value in (-1.0, NAN, INF, 1e308, 5e-324)),
    *({"soft_timeout": value} for value in (-1.0, NAN, INF)),
    *({"deadline": value} for value in (-1.0, NAN, INF)),
    {"max_attempts": 2**32 - 1},
    {"memory_limit": 2**64 - 1},
    {"concurrency": 2**32 - 1},
    {"recycle_after": 2**32 - 1},
    {"retry_on": ["x" * 100_000]},
]
BAD = {
    **{f"number {value!r}": message(batch(), number=value) for value in (-1, 2**31, 2**32, 2**53, 2**63 - 1, "x")},
    **{f"count {value!r}": message(batch(), count=value) for value in (-1, 0, 2**32, 2**63 - 1, "x")},
    **{f"{name} long": message(batch(), **{name: "x" * 5000}) for name in ("block", "run", "function")},
    **{f"{name} a number": message(batch(), **{name: 2**63 - 1}) for name in ("block", "run", "function")},
    "no headers": Message(*codec.encode(batch())),
    "another encoding": Message(b"x", "br", {"function": "text/upper"}),
    "no batch": Message(b"\xff" * 100, codec.IDENTITY, {"function": "text/upper"}),
    "cut off": Message(codec.encode(batch())[0][:-1], codec.encode(batch())[1], {}),
    "not compressed": Message(b"\x78\x9c" + b"\xff" * 50, codec.DEFLATE, {}),
    "nothing": Message(b"", codec.IDENTITY, {}),
    "index": message(batch(index=2**32 - 1)),
    "attempt": message(batch(attempt=2**32 - 1)),
    "kills": message(batch(kills=2**32 - 1)),
    "fence": message(batch(fence=2**32 - 1)),
    "a name that is none": message(batch(function="../../etc/passwd")),
    **{f"options {options}": message(batch(options=Options(**options))) for options in OPTIONS},  # type: ignore[arg-type]
}


async def test_bad_messages_cost_themselves_alone(broker: Broker) -> None:
    good = message(batch(run="good"))
    mixed = [each for bad in BAD.values() for each in (bad, good)]
    async with Worker(WorkerSettings(processes=1, name="w"), broker) as worker:
        await broker.publish(JOBS, mixed)
        ended = 0
        async with within(), await broker.consume(RESULTS, prefetch=100) as results:
            while ended < len(BAD):
                deliveries = await results.receive(100)
                for each in deliveries:
                    found = codec.decode(ResultBatch, each.message.body, each.message.content_encoding)
                    ended += len(found.results) if found.run == "good" else 0
                await results.ack(deliveries)
            await until(lambda: worker.idle)
        assert not worker.failed.is_set()
        assert (await broker.depth(JOBS)).ready == 0


async def test_a_message_at_which_the_worker_itself_fails_is_a_dead_letter_at_its_limit(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Whatever raises: where it is taken, where it is handed to a child, where its results or its crash are handled."""

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    def fail_for(run: str, method: object) -> object:
        def wrapped(self: Worker, assignment: object, *rest: object) -> object:
            if getattr(getattr(assignment, "owner", assignment), "run", "") == run:
                fail()
            return method(self, assignment, *rest)  # type: ignore[operator]

        return wrapped

    def give(frame: Frame) -> bytes:
        return fail() if b"handing" in frame.body else pack_header(frame)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Worker, "_take", fail_for("taking", Worker._take))
    monkeypatch.setattr(Worker, "on_results", fail_for("results", Worker.on_results))
    monkeypatch.setattr("dts.worker.pool.child_process.pack_header", give)
    monkeypatch.setattr(Recoverer, "recover", fail)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "exit.py").write_text("import os\ndef main(text): os._exit(1)")
    runs = {"taking", "results", "handing", "crash"}
    bad = [message(batch(run=run, function="own/exit" if run == "crash" else "text/upper")) for run in sorted(runs)]
    async with Worker(WorkerSettings(processes=1, name="w", functions=str(tmp_path)), broker) as worker:
        await broker.publish(JOBS, bad)
        dead = set()
        async with within(), await broker.consume(DEAD, prefetch=10) as letters:
            while len(dead) < len(bad):
                for each in await letters.receive(10):
                    where = origin(each.message)
                    assert where is not None
                    assert where.queue == JOBS
                    assert f"{deliveries.MAX_FAILURES} attempts" in where.reason
                    assert "a fault of ours" in where.reason
                    dead.add(each.message.headers["run"])
                    await letters.ack([each])
        assert dead == runs
        assert not worker.failed.is_set()
        await until(lambda: worker.idle)
    assert caplog.text.count("cannot be handled and goes back to its queue") == len(bad) * (deliveries.MAX_FAILURES - 1)


def test_any_number_of_a_job_fits_a_frame() -> None:
    for number in (0, 2**32, 2**53, 2**64 - 1):
        frame = Frame(Kind.RUN, 1, b"body", jobs=number)
        assert FrameReader().feed(pack_header(frame) + frame.body) == [frame]
