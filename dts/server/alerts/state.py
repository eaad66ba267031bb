"""The life of an alert, step by step. Pure: what it is, what is observed, and the time give what it is then.

    nothing ──high──▶ pending ──for `lasting`──▶ firing ──well for `lasting`──▶ ended
                         └──well──▶ nothing

Between `threshold` and `clear` a figure changes nothing, so what goes up and down around the threshold is one alert.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from dts.model import AlertRule, Document
from dts.server.alerts.kinds import KINDS, Terms
from dts.server.alerts.observe import Observation
from dts.server.alerts.signals import Signal

COLLECTION = "alerts"

Event = Literal["began", "again", "ended"]

_SAMPLES = 20
"""Different events that an alert names; of further ones it keeps the number."""

_HOSTS = 5  # that are named for an event


class Phase(StrEnum):
    """How far an alert is."""

    PENDING = "pending"
    FIRING = "firing"
    ENDED = "ended"


class Sample(msgspec.Struct, frozen=True):
    """An event that has happened: how often, what it says, and on which hosts."""

    count: int
    text: str
    level: int = 0
    hosts: tuple[str, ...] = ()


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """An alert. `since` is when it began, `calm` since when it is well, `notified` when people were last notified, 0
    for never. `owed` is the notice that is still to be posted, of the batch in which it was decided.

    `total` counts the events of its life, `news` those since the last notice.
    """

    rule: str
    kind: str
    subject: str
    phase: Phase
    since: float
    began: str
    ended: str
    severity: str = "warning"
    notify: tuple[str, ...] = ()
    text: str = ""
    host: str = ""
    function: str = ""
    value: float = 0.0
    limit: str = ""
    calm: float = 0.0
    notified: float = 0.0
    silenced: bool = False
    owed: Event | None = None
    batch: str = ""
    total: int = 0
    news: int = 0
    last: float = 0.0
    samples: dict[str, Sample] = msgspec.field(default_factory=dict)
    merged: tuple[str, ...] = ()


def state_of(document: Document) -> AlertState:
    """The alert in a document."""
    return msgspec.convert(document.data, AlertState)


def alert_id(rule: str, subject: str) -> str:
    """The id of the alert of a rule about something."""
    return f"{rule}/{subject}"


def step(
    rule: AlertRule, observation: Observation, state: AlertState | None, now: float, *, silenced: bool
) -> AlertState | None:
    """What an alert about a figure is after an observation; None for no alert."""
    terms, low = Terms.of(rule), KINDS[rule.kind].low
    value = observation.value
    high = value <= terms.threshold if low else value >= terms.threshold
    well = value > terms.clear if low else value < terms.clear or (terms.clear >= terms.threshold and not high)
    if state is None:
        if not high:
            return None
        state = _new(rule, observation.subject, observation.began, observation.ended, now)
    state = _seen(state, rule, observation, terms)
    if state.phase is Phase.PENDING:
        if well:
            return None
        if not high or now - state.since < terms.lasting:
            return state
        return _notify(msgspec.structs.replace(state, phase=Phase.FIRING), "began", now, silenced=silenced)
    if well:
        calm = state.calm or now
        state = msgspec.structs.replace(state, calm=calm)
        return _end(state) if now - calm >= terms.lasting else state
    state = msgspec.structs.replace(state, calm=0.0)
    return _remind(state, terms, now, silenced=silenced) if high else state


def step_events(
    rule: AlertRule, signals: list[Signal], state: AlertState | None, now: float, *, silenced: bool
) -> AlertState | None:
    """What an alert about events is after some of them, perhaps none; None for no alert."""
    terms = Terms.of(rule)
    if state is None:
        if not signals:
            return None
        state = _new(rule, rule.kind, "", "", now)
    state = _counted(state, rule, signals, now)
    if state.phase is Phase.PENDING:
        if now - state.since < terms.lasting or state.total < terms.threshold:
            return None if now - state.last >= max(terms.clear, terms.lasting) else state
        return _notify(msgspec.structs.replace(state, phase=Phase.FIRING), "began", now, silenced=silenced)
    if now - state.last >= terms.clear:
        return _end(state)
    return _remind(state, terms, now, silenced=silenced) if state.news else state


def _new(rule: AlertRule, subject: str, began: str, ended: str, now: float) -> AlertState:
    return AlertState(
        rule=rule.id,
        kind=rule.kind,
        subject=subject,
        phase=Phase.PENDING,
        since=now,
        began=began,
        ended=ended,
    )


def _seen(state: AlertState, rule: AlertRule, observation: Observation, terms: Terms) -> AlertState:
    unit = KINDS[rule.kind].unit
    return msgspec.structs.replace(
        state,
        severity=rule.severity,
        notify=rule.notify,
        text=observation.text,
        host=observation.host,
        function=observation.function,
        value=round(observation.value, 2),
        limit=f"{terms.threshold:g}{unit}" if unit else "",
    )


def _counted(state: AlertState, rule: AlertRule, signals: list[Signal], now: float) -> AlertState:
    samples = dict(state.samples)
    for signal in signals:
        known = samples.get(signal.key)
        if known is None and len(samples) >= _SAMPLES:
            continue
        known = known or Sample(0, signal.text, signal.level)
        hosts = known.hosts
        if signal.host and signal.host not in hosts and len(hosts) < _HOSTS:
            hosts = (*hosts, signal.host)
        samples[signal.key] = Sample(known.count + signal.count, known.text, known.level, hosts)
    new = sum([signal.count for signal in signals])
    return msgspec.structs.replace(
        state,
        severity=rule.severity,
        notify=rule.notify,
        samples=samples,
        total=state.total + new,
        news=state.news + new,
        last=now if new else state.last,
        value=float(state.total + new),
    )


def _notify(state: AlertState, event: Event, now: float, *, silenced: bool) -> AlertState:
    """The alert with a notice owed, unless it is silenced: then it is owed when the silence ends."""
    if silenced:
        return msgspec.structs.replace(state, silenced=True)
    return msgspec.structs.replace(state, silenced=False, owed=event, notified=now)


def _remind(state: AlertState, terms: Terms, now: float, *, silenced: bool) -> AlertState:
    if not state.notified:
        return _notify(state, "began", now, silenced=silenced)
    if terms.repeat and now - state.notified >= terms.repeat:
        return _notify(state, "again", now, silenced=silenced)
    return state


def _end(state: AlertState) -> AlertState:
    """The alert as it ended: whoever was notified of its beginning is notified of its end."""
    return msgspec.structs.replace(state, phase=Phase.ENDED, owed="ended" if state.notified else None)
