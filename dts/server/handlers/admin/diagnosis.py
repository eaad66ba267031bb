"""`/admin/diagnosis`: what the server finds when it looks around, for `dts-admin doctor`. Facts only, no verdicts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from typing import Protocol

from msgspec import Struct

from dts.errors import BrokerUnavailable, DtsError
from dts.model import DEFAULT_ROUTE, Function, User
from dts.server.daemons import DAEMONS
from dts.server.declare import declares
from dts.server.handlers._base import DtsHandler, signed
from dts.wire import queues

_KINDS = {"SqliteStore": "sqlite", "MongoStore": "mongodb", "SqliteBroker": "sqlite", "AmqpBroker": "amqp"}


class BackEnd(Struct):
    """A back end: `state` is `ok`, or why it does not answer; `latency` is that of a round trip in seconds."""

    kind: str
    state: str
    latency: float


class BrokerView(BackEnd):
    """The broker. AMQP does not tell the `consumer_timeout` (seconds), so it is null unless it is known otherwise."""

    consumer_timeout: float | None = None


class QueueView(Struct):
    """A queue: messages waiting, and who waits for them; null where the broker does not count consumers.

    `problem` is why nothing is known, or how its arguments differ from those that DTS gives to a queue.
    """

    name: str
    ready: int = 0
    consumers: int | None = None
    problem: str = ""


class DaemonsView(Struct):
    """Daemons that run inside this server process now."""

    inside: list[str]


class FunctionTimeout(Struct):
    """For how many seconds a function may run."""

    id: str
    timeout: float


class DiagnosisView(Struct):
    """Everything."""

    time: float
    store: BackEnd
    broker: BrokerView
    queues: list[QueueView]
    daemons: DaemonsView
    timeouts: list[FunctionTimeout]


class DiagnosisAdminHandler(DtsHandler):
    """`/admin/diagnosis`: the state of what the server works with."""

    @signed
    @declares(answer=DiagnosisView)
    async def get(self, user: User) -> None:
        """Store, broker, queues, daemons, and the functions that may run for long."""
        context = self.context
        store, broker = await asyncio.gather(_look_at(context.store), _look_at(context.broker))
        functions = await context.store.list_functions() if store.state == "ok" else []
        names = [queues.RESULTS, queues.DEAD, *_jobs_queues(functions)]
        # One after the other: a depth takes a channel of its own, and nobody is in a hurry here.
        depths = [await self._queue(name) for name in names] if broker.state == "ok" else []
        timeouts = [FunctionTimeout(each.name, each.timeout) for each in functions if each.timeout is not None]
        self.answer(
            DiagnosisView(
                time=time.time(),
                store=store,
                broker=BrokerView(broker.kind, broker.state, broker.latency),
                queues=depths,
                daemons=DaemonsView(_daemons_inside()),
                timeouts=timeouts,
            )
        )

    async def _queue(self, name: str) -> QueueView:
        try:
            depth = await self.context.broker.depth(name)
            problem = await self.context.broker.check(name)
        except BrokerUnavailable as error:
            return QueueView(name, problem=str(error))
        return QueueView(name, depth.ready, depth.consumers, problem)


class _Pingable(Protocol):
    """What both seams have."""

    def ping(self) -> Awaitable[None]: ...


async def _look_at(back_end: _Pingable) -> BackEnd:
    name = type(back_end).__name__
    began = time.monotonic()
    try:
        await back_end.ping()
    except DtsError as error:
        return BackEnd(_KINDS.get(name, name), str(error), 0.0)
    return BackEnd(_KINDS.get(name, name), "ok", round(time.monotonic() - began, 6))


def _jobs_queues(functions: Iterable[Function]) -> list[str]:
    routes = {DEFAULT_ROUTE, *(function.route for function in functions)}
    return [queues.jobs_queue(route) for route in sorted(routes)]


def _daemons_inside() -> list[str]:
    """The daemons that are at work in this process, by the names of their tasks."""
    tasks = {task.get_name().partition("-")[0] for task in asyncio.all_tasks()}
    return [name for name in DAEMONS if name in tasks]
