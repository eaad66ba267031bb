"""`/admin/diagnosis`: what the server finds when it looks around, for `dts-admin doctor`. Facts only, no verdicts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from dts.broker import Broker
from dts.errors import BrokerUnavailable, DtsError
from dts.model import DEFAULT_ROUTE, Function, User, WorkerState
from dts.model.fleet import CHILDLESS
from dts.server.daemons import DAEMONS, daemons_present
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.declare import declares
from dts.server.lookup.fleet import ALIVE, latest_of_hosts
from dts.wire import queues

_STORES = {"SqliteStore": "sqlite", "MongoStore": "mongodb"}

_MOST_NOTES = 100  # of workers, that are shown


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
    """Daemons that run inside this server process now, and those that answered from anywhere when they were asked."""

    inside: list[str]
    present: list[str]


class SilentHost(Struct):
    """A host that has a worker which was heard of, but none that is heard of now; `last` is when it was."""

    host: str
    last: float


class HostClock(Struct):
    """A host of live workers, and by how many seconds its clock is ahead of the store's; negative for behind."""

    host: str
    ahead: float


class WorkerNote(Struct):
    """Something about a worker that an operator should look at, in a sentence."""

    worker: str
    note: str


class WorkersView(Struct):
    """Workers by their heartbeats: how many were heard of lately and in all, on how many hosts, and when the last.

    `clocks` has the hosts whose clock is more than a second off.
    `stalled` says of each that takes nothing though messages wait for it what its heartbeat says.
    Those that are `childless` have had no child process for a minute: they are not counted as live.
    """

    live: int
    known: int
    hosts: int
    last: float | None
    silent: list[SilentHost]
    clocks: list[HostClock]
    stalled: list[str]
    childless: list[str]
    notes: list[WorkerNote]


class RouteView(Struct):
    """A route that enabled functions are registered for, and how many live workers serve it.

    One that is `left` is no function's any more, but these had it, and jobs wait in its queue.
    """

    route: str
    functions: list[str]
    workers: int
    left: bool = False


class FunctionTimeout(Struct):
    """For how many seconds a function may run."""

    id: str
    timeout: float


class DiagnosisView(Struct):
    """Everything. `time` is the store's, and `ahead` by how many seconds this server's clock is ahead of it."""

    time: float
    ahead: float
    store: BackEnd
    broker: BrokerView
    queues: list[QueueView]
    daemons: DaemonsView
    workers: WorkersView
    routes: list[RouteView]
    timeouts: list[FunctionTimeout]


class DiagnosisAdminHandler(DtsHandler):
    """`/admin/diagnosis`: the state of what the server works with."""

    @authorized
    @declares(answer=DiagnosisView)
    async def get(self, user: User) -> None:
        """Store, broker, queues, daemons, workers, and the functions that may run for long."""
        context, now = self.context, self.context.store.now()
        kind = type(context.store).__name__
        store, broker = await asyncio.gather(
            _look_at(context.store, _STORES.get(kind, kind)), _look_at(context.broker, context.broker.kind)
        )
        functions = await context.store.list_functions() if store.state == "ok" else []
        states = await context.store.list_heartbeats() if store.state == "ok" else []
        present = await _daemons_present(context.broker) if broker.state == "ok" else []
        names = [queues.RESULTS, queues.DEAD, *_jobs_queues(functions)]
        # One after the other: a depth takes a channel of its own, and nobody is in a hurry here.
        depths = [await self._queue(name) for name in names] if broker.state == "ok" else []
        left, of_left = await self._left_with_jobs(functions) if broker.state == "ok" else ({}, [])
        depths += of_left
        timeouts = [FunctionTimeout(each.name, each.timeout) for each in functions if each.timeout is not None]
        self.answer(
            DiagnosisView(
                time=now,
                ahead=round(time.time() - now, 1),
                store=store,
                broker=BrokerView(broker.kind, broker.state, broker.latency),
                queues=depths,
                daemons=DaemonsView(_daemons_inside(), present),
                workers=_workers(states, now),
                routes=_routes(functions, left, states, now),
                timeouts=timeouts,
            )
        )

    async def _left_with_jobs(self, functions: Sequence[Function]) -> tuple[dict[str, list[str]], list[QueueView]]:
        """The routes that functions with unfinished jobs have left, where some wait; what is there may be others'.

        With them come their queues.
        """
        found: dict[str, list[str]] = {}
        depths: list[QueueView] = []
        for route, names in sorted(_left(functions).items()):
            queue = await self._queue(queues.jobs_queue(route))
            if queue.ready and (
                open_ := [name for name in names if await self.context.store.count_unfinished(function=name)]
            ):
                found[route] = open_
                depths.append(queue)
        return found, depths

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


async def _look_at(back_end: _Pingable, kind: str) -> BackEnd:
    began = time.monotonic()
    try:
        await back_end.ping()
    except DtsError as error:
        return BackEnd(kind, str(error), 0.0)
    return BackEnd(kind, "ok", round(time.monotonic() - began, 6))


def _jobs_queues(functions: Iterable[Function]) -> list[str]:
    routes = {DEFAULT_ROUTE, *(function.route for function in functions)}
    return [queues.jobs_queue(route) for route in sorted(routes)]


async def _daemons_present(broker: Broker) -> list[str]:
    present = await daemons_present(broker, frozenset(DAEMONS))
    return [name for name in DAEMONS if name in present]


def _workers(states: Sequence[WorkerState], now: float) -> WorkersView:
    """How the workers are, by their last heartbeats."""
    known = [state for state in states if not state.has_ended]
    # A host whose last word was that its worker ends is not missed.
    hosts = {host: state.time for host, state in latest_of_hosts(states).items() if not state.has_ended}
    silent = [SilentHost(host, last) for host, last in sorted(hosts.items()) if now - last > ALIVE]
    live = sum([_is_alive(state, now) for state in known])
    last = max((state.time for state in states), default=None)
    ahead = {state.host: round(state.ahead, 1) for state in known if _is_alive(state, now) and abs(state.ahead) > 1}
    clocks = [HostClock(*each) for each in sorted(ahead.items())]
    heard = [state for state in known if now - state.time <= ALIVE]
    stalled = [f"{state.worker} on {state.host}: {state.state}" for state in heard if state.is_stalled]
    childless = [state.worker for state in heard if state.state == CHILDLESS]
    notes = [WorkerNote(state.worker, note) for state in heard for note in state.notes]
    heard_of = len(hosts) - len(silent)
    return WorkersView(live, len(known), heard_of, last, silent, clocks, stalled, childless, notes[:_MOST_NOTES])


def _left(functions: Iterable[Function]) -> dict[str, list[str]]:
    """The routes that functions had, and that no function is registered for now, with their names."""
    functions = list(functions)
    needed = {DEFAULT_ROUTE, *(function.route for function in functions)}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for function in functions:
        for route in function.left_routes:
            if route not in needed:
                found[route].append(function.name)
    return dict(found)


def _routes(
    functions: Iterable[Function], left: Mapping[str, list[str]], states: Iterable[WorkerState], now: float
) -> list[RouteView]:
    """The routes that functions need, or have left jobs on, and who serves them."""
    serving = Counter(route for state in states if _is_alive(state, now) for route in set(state.routes))
    needed: defaultdict[str, list[str]] = defaultdict(list)
    for function in functions:
        if function.enabled:
            needed[function.route].append(function.name)
    present = [RouteView(route, names, serving[route]) for route, names in sorted(needed.items())]
    return present + [RouteView(route, names, serving[route], left=True) for route, names in sorted(left.items())]


def _is_alive(state: WorkerState, now: float) -> bool:
    return now - state.time <= ALIVE and state.can_work


def _daemons_inside() -> list[str]:
    """The daemons that are at work in this process, by the names of their tasks."""
    tasks = {task.get_name().partition("-")[0] for task in asyncio.all_tasks()}
    return [name for name in DAEMONS if name in tasks]
