"""From alerts that have changed to notices: what is equal is one notice. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dts.server.alerts.kinds import KINDS
from dts.server.alerts.state import AlertState, Event, Sample
from dts.server.notify.notice import Notice

_NAMED = 20
"""Subjects that a notice about several names; of further ones it says how many."""


def compose(states: Iterable[AlertState], link: str) -> list[tuple[Notice, tuple[str, ...]]]:
    """The notices that alerts owe, with their recipients: one for all alerts of a rule with the same event of a batch.

    A notice's id follows from batch, event and rule, so it is the same whoever composes it, and however often.
    """
    groups: dict[tuple[str, Event, str], list[AlertState]] = {}
    for state in states:
        if state.owed is not None:
            groups.setdefault((state.batch, state.owed, state.rule), []).append(state)
    return [
        (_notice(f"{batch}.{event}.{rule}", event, sorted(group, key=lambda each: each.subject), link), group[0].notify)
        for (batch, event, rule), group in groups.items()
    ]


def _notice(notice_id: str, event: Event, states: list[AlertState], link: str) -> Notice:
    first = states[0]
    wording = _of_events if KINDS[first.kind].events else _of_one if len(states) == 1 else _of_many
    title, text = wording(event, states)
    return Notice(
        notice_id,
        f"alert.{event}",
        title,
        f"{text}\n\nrule {first.rule}, {first.severity}".strip(),
        ", ".join(state.subject for state in states[:_NAMED]),
        min(state.since for state in states),
        link,
        {
            "rule": first.rule,
            "severity": first.severity,
            "alerts": [
                {"subject": each.subject, "value": each.value, "since": each.since, "count": each.total}
                for each in states[:_NAMED]
            ],
        },
    )


def _of_one(event: Event, states: list[AlertState]) -> tuple[str, str]:
    [state] = states
    if event == "ended":
        return state.ended, _figure(state)
    title = state.began + (f" at {state.value:.0f}{KINDS[state.kind].unit}" if _has_figure(state) else "")
    return title + (" still" if event == "again" else ""), f"{_figure(state)}\n{state.text}".strip()


def _of_many(event: Event, states: list[AlertState]) -> tuple[str, str]:
    which = {"began": "", "again": " still", "ended": ", and well again"}[event]
    names = [state.subject for state in states]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    lines = [f"{state.subject}: {state.ended if event == 'ended' else _line(state)}" for state in states[:_NAMED]]
    title = f"{states[0].kind}: {len(states)} at once{which}: {', '.join(names[:3])}" + (" …" if len(names) > 3 else "")
    return title, "\n".join(lines) + more


def _line(state: AlertState) -> str:
    return state.began + (f" at {state.value:.0f}{KINDS[state.kind].unit}" if _has_figure(state) else "")


def _has_figure(state: AlertState) -> bool:
    return KINDS[state.kind].about in ("host", "route", "function") and state.kind not in ("silent", "childless")


def _figure(state: AlertState) -> str:
    return f"The limit is {state.limit}." if state.limit else ""


def _of_events(event: Event, states: list[AlertState]) -> tuple[str, str]:
    [state] = states
    noun = {"log": "log record", "dead": "dead letter"}[state.kind]
    number = state.total if event == "ended" else state.news
    counted = f"{number} {noun}{'' if number == 1 else 's'}"
    ordered = sorted(state.samples.values(), key=lambda sample: -sample.count)
    lines = [_sample(sample) for sample in ordered]
    if event == "ended":
        return f"no further {noun}s: {counted} in all", "\n".join(lines)
    top = ordered[0]
    where = f"{_level(top.level).strip()} on {top.hosts[0]}: " if top.hosts else ""
    what = where + top.text.partition("\n")[0][:100]
    return what if number == 1 else f"{counted}, among them {what}", "\n".join(lines)


def _sample(sample: Sample) -> str:
    where = f"\n    on {', '.join(sample.hosts)}" if sample.hosts else ""
    return f"{sample.count} × {_level(sample.level)}{sample.text}{where}"


def _level(level: int) -> str:
    return f"{logging.getLevelName(level)} " if level else ""
