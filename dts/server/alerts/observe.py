"""From what is known of the fleet at one moment to figures that rules look at. Pure: no clock, no store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dts.model import VirtualHost, WorkerState
from dts.model.fleet import CHILDLESS
from dts.server.lookup.fleet import latest_of_hosts
from dts.server.notify.notice import clock

STALE = 60.0
"""Seconds after which a heartbeat says nothing any more of its host's cpu, memory and disk."""

_FEWEST_ATTEMPTS = 10
"""Attempts of a function below which no failure rate is made of them."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What became of a function's attempts in the last minutes; `wait` is the longest from publishing to start."""

    count: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known at one moment. `queues` are waiting messages by route, `ages` how long the oldest has waited;
    `broker_away` is for how many seconds the broker has not answered; `targets` are figures by kind and target.
    """

    now: float
    workers: tuple[WorkerState, ...] = ()
    vhosts: Mapping[str, VirtualHost] = field(default_factory=dict)
    queues: Mapping[str, int] = field(default_factory=dict)
    ages: Mapping[str, float] = field(default_factory=dict)
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    broker_away: float = 0.0
    targets: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """A figure: of what kind, of what (`subject`), and how a notice would put it.

    `began` and `ended` are titles without the figure, `text` what an operator needs besides. `time` is when the figure
    was so, by the store's clock: that of a heartbeat is no news until the next one comes.
    """

    kind: str
    subject: str
    value: float
    began: str
    ended: str
    text: str = ""
    host: str = ""
    groups: frozenset[str] = frozenset()
    function: str = ""
    time: float | None = None


def observe(snapshot: Snapshot) -> list[Observation]:
    """All figures of a snapshot."""
    return [
        *_hosts(snapshot),
        *_queues(snapshot),
        *_functions(snapshot),
        *_targets(snapshot),
        Observation(
            "broker",
            "broker",
            snapshot.broker_away,
            "the broker is away",
            "the broker is back",
            "Jobs are accepted and wait in the store; workers get none until it is back.",
        ),
    ]


def _hosts(snapshot: Snapshot) -> Iterator[Observation]:
    by_host: dict[str, list[WorkerState]] = {}
    for state in snapshot.workers:
        by_host.setdefault(state.host, []).append(state)
    for host, latest in latest_of_hosts(snapshot.workers).items():
        states = by_host[host]
        groups = _groups(host, states, snapshot.vhosts)
        age = max(0.0, snapshot.now - latest.time)
        yield Observation(
            "silent",
            host,
            0.0 if latest.has_ended else age,
            f"{host} is silent",
            f"{host} is back",
            f"{host} was last heard of {age:.0f} seconds ago, at {clock(latest.time)}.",
            host,
            groups,
        )
        if age <= STALE and not latest.has_ended:
            yield from _figures(latest, groups)
            yield from _children(host, states, groups, snapshot.now)


def _figures(state: WorkerState, groups: frozenset[str]) -> Iterator[Observation]:
    text = (
        f"worker {state.worker}, version {state.version}, state {state.state or 'unknown'}\n"
        f"cpu {state.cpu:.0f} %, memory {state.memory:.0f} %, disk {state.disk:.0f} %, load {state.load:.1f}\n"
        f"{state.jobs_running} jobs at work in {state.children} processes"
    )
    for name in ("cpu", "memory", "disk", "load"):
        value = getattr(state, name)
        ended = f"{state.host}: {name} is well again"
        yield Observation(
            name, state.host, value, f"{state.host}: {name}", ended, text, state.host, groups, time=state.time
        )


def _children(host: str, states: Iterable[WorkerState], groups: frozenset[str], now: float) -> Iterator[Observation]:
    fresh = [state for state in states if now - state.time <= STALE and not state.has_ended]
    idle = [state for state in fresh if state.state == CHILDLESS or state.is_stalled]
    yield Observation(
        "childless",
        host,
        float(len(idle)),
        f"{host}: a worker takes no jobs",
        f"{host}: its workers take jobs again",
        "\n".join(f"{state.worker}: {state.state}" for state in idle),
        host,
        groups,
    )


def _groups(host: str, states: Iterable[WorkerState], vhosts: Mapping[str, VirtualHost]) -> frozenset[str]:
    """The groups of a host: those of its record, and the routes that its workers serve."""
    routes = {route for state in states for route in state.routes}
    record = vhosts.get(host)
    return frozenset(routes | set(record.groups if record is not None else ()))


def _queues(snapshot: Snapshot) -> Iterator[Observation]:
    for route, waiting in snapshot.queues.items():
        title, ended = f"route {route}: jobs wait", f"route {route}: jobs do not wait any longer"
        text = f"{waiting} messages wait in the queue of the route {route}."
        groups = frozenset({route})
        yield Observation("queue", route, float(waiting), title, ended, text, groups=groups)
        age = snapshot.ages.get(route, 0.0)
        yield Observation("queue_age", route, age, title, ended, f"{text} The oldest since {age:.0f} s.", groups=groups)


def _functions(snapshot: Snapshot) -> Iterator[Observation]:
    for name, traffic in snapshot.traffic.items():
        enough = traffic.count >= _FEWEST_ATTEMPTS
        yield Observation(
            "failures",
            name,
            100.0 * traffic.failed / traffic.count if enough else 0.0,
            f"{name}: attempts fail",
            f"{name}: attempts succeed again",
            f"{traffic.failed} of {traffic.count} attempts failed in the last minutes.",
            function=name,
        )


def _targets(snapshot: Snapshot) -> Iterator[Observation]:
    for (kind, target), value in snapshot.targets.items():
        if kind == "certificate":
            title, ended = f"the certificate of {target} runs out", f"the certificate of {target} was renewed"
            yield Observation(kind, target, value, title, ended, f"It is valid for {value:.1f} more days.")
        else:
            title, ended = f"{target} runs full", f"{target} has room again"
            yield Observation(kind, target, value, title, ended, f"{value:.1f} % of its disk are used.")
