"""One evaluation: rules, figures, events and the alerts that there are give the alerts that there are then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from dts.model import AlertRule, Silence
from dts.server.alerts.kinds import KINDS
from dts.server.alerts.observe import Observation
from dts.server.alerts.rules import is_silenced, rules_for
from dts.server.alerts.signals import Signal
from dts.server.alerts.state import AlertState, Phase, alert_id, step, step_events

_WORTH = 0.1
"""Share by which a figure must change for an alert to be written again for that alone."""

_PLENTY = 1e9
"""A figure that is well for any rule for which a low one is bad. JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that has changed; None stands for no alert, before or after."""

    id: str
    before: AlertState | None
    after: AlertState | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an event was, as rules and silences see it."""

    host: str = ""
    groups: frozenset[str] = field(default_factory=frozenset)
    function: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """What an evaluation goes by."""

    now: float
    rules: Sequence[AlertRule]
    silences: Sequence[Silence]
    observations: Sequence[Observation]
    signals: Sequence[Signal]


def evaluate(given: Given, states: Mapping[str, AlertState]) -> list[Change]:
    """The alerts that change, of those that have not ended."""
    live = {key: state for key, state in states.items() if state.phase is not Phase.ENDED}
    after: dict[str, AlertState | None] = {}
    for observation in [*given.observations, *_unseen(given, live)]:
        for rule in rules_for(given.rules, observation.kind, observation.subject, observation):
            key = alert_id(rule.id, observation.subject)
            if key in states and key not in live:
                continue  # its end is still to be posted
            at = given.now if observation.time is None else observation.time
            silenced = is_silenced(given.silences, rule.id, observation, given.now)
            after[key] = step(rule, observation, live.get(key), at, silenced=silenced)
    after.update(_events(given, states, live))
    for key, state in live.items():
        if key not in after and not _stays(state, given):
            after[key] = None
    return [Change(key, live.get(key), state) for key, state in after.items() if _is_news(live.get(key), state)]


def _events(
    given: Given, states: Mapping[str, AlertState], live: Mapping[str, AlertState]
) -> dict[str, AlertState | None]:
    """The alerts about events after those that have happened."""
    groups = {each.host: each.groups for each in given.observations if each.host}
    by_rule: dict[str, list[Signal]] = {}
    for signal in given.signals:
        place = _Place(signal.host, groups.get(signal.host, frozenset()), signal.function)
        rules = (
            [signal.rule]
            if signal.rule
            else [rule.id for rule in rules_for(given.rules, signal.kind, signal.kind, place)]
        )
        for rule_id in rules:
            if not is_silenced(given.silences, rule_id, place, given.now):
                by_rule.setdefault(rule_id, []).append(signal)
    after: dict[str, AlertState | None] = {}
    for rule in given.rules:
        key = alert_id(rule.id, rule.kind)
        if KINDS[rule.kind].events and rule.enabled and (key not in states or key in live):
            after[key] = step_events(rule, by_rule.get(rule.id, []), live.get(key), given.now, silenced=False)
    return after


def _unseen(given: Given, live: Mapping[str, AlertState]) -> Iterable[Observation]:
    """Of what was the matter and is not there any more, such as a queue: that it is well."""
    seen = {(each.kind, each.subject) for each in given.observations}
    for state in live.values():
        kind = KINDS.get(state.kind)
        if kind is None or kind.events or kind.about == "host" or (state.kind, state.subject) in seen:
            continue
        value = _PLENTY if kind.low else 0.0
        yield Observation(
            state.kind, state.subject, value, state.began, state.ended, host=state.host, function=state.function
        )


def _stays(state: AlertState, given: Given) -> bool:
    """Whether an alert that no figure was for stays: one of a host that is silent, by a rule that there is."""
    known = any(each.host == state.host for each in given.observations)
    return known and bool(state.host) and any(rule.id == state.rule and rule.enabled for rule in given.rules)


def _is_news(before: AlertState | None, after: AlertState | None) -> bool:
    """Whether a change is worth to be written: not for a figure that is nearly what it was."""
    if before is None or after is None:
        return before is not after
    if abs(after.value - before.value) > _WORTH * max(abs(before.value), 1.0):
        return True
    return msgspec.structs.replace(after, value=before.value, text=before.text) != before
