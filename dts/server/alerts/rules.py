"""Which rules are for what, and what is silenced. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from dts.config import DaemonsSettings
from dts.model import AlertRule, Silence

_NAMED, _MATCHED, _GROUP, _ALL, _BUILT_IN = 4, 3, 2, 1, 0
"""How particular a rule is: it names the host or function, has a pattern, has its group, is for all, is built in."""

BUILT_IN = "default."
"""What the ids of built-in rules begin with; no administrator's rule can have such an id."""


class Labelled(Protocol):
    """What rules and silences go by."""

    @property
    def host(self) -> str:
        """The host that it is about; empty for none."""

    @property
    def groups(self) -> frozenset[str]:
        """The groups of that host."""

    @property
    def function(self) -> str:
        """The function that it is about; empty for none."""


def built_in_rules(settings: DaemonsSettings) -> list[AlertRule]:
    """The rules that hold unless others do: the thresholds of the configuration, and what is always a fault."""
    return [
        AlertRule(BUILT_IN + "silent", "silent", settings.silence, severity="critical"),
        *(
            AlertRule(BUILT_IN + name, name, limit, lasting=settings.high_for)
            for name, limit in (
                ("cpu", settings.max_cpu),
                ("memory", settings.max_memory),
                ("disk", settings.max_disk),
            )
        ),
        AlertRule(BUILT_IN + "childless", "childless"),
        AlertRule(BUILT_IN + "broker", "broker", severity="critical"),
        AlertRule(BUILT_IN + "store", "store", severity="critical"),
        AlertRule(
            BUILT_IN + "log",
            "log",
            level=logging.getLevelNamesMapping()[settings.log_mail_level],
            lasting=min(10.0, settings.log_mail_interval),
            repeat=settings.log_mail_interval,
        ),
    ]


def rules_for(rules: Sequence[AlertRule], kind: str, subject: str, what: Labelled) -> list[AlertRule]:
    """The rules of a kind that count for something: the most particular of those that match, if they are enabled."""
    ranks = [(_rank(rule, subject, what), rule) for rule in rules if rule.kind == kind]
    most = max((rank for rank, _ in ranks if rank is not None), default=0)
    return [rule for rank, rule in ranks if rank == most and rule.enabled]


def _rank(rule: AlertRule, subject: str, what: Labelled) -> int | None:
    """How particular a rule is for something; None if it is not for it."""
    if rule.target and rule.target != subject:
        return None
    if rule.id.startswith(BUILT_IN):
        return _BUILT_IN
    if not (rule.hosts or rule.groups or rule.functions):
        return _ALL
    names = [(what.host, rule.hosts), (what.function, rule.functions)]
    if any(name and name in given for name, given in names):
        return _NAMED
    if any(name and _matches(name, given) for name, given in names):
        return _MATCHED
    return _GROUP if what.groups.intersection(rule.groups) else None


def is_silenced(silences: Iterable[Silence], rule: str, what: Labelled, now: float) -> bool:
    """Whether nobody is to be notified of something that a rule has found."""
    return any(silence.is_on(now) and _covers(silence, rule, what) for silence in silences)


def _covers(silence: Silence, rule: str, what: Labelled) -> bool:
    if not (silence.hosts or silence.groups or silence.functions or silence.rules):
        return True
    return bool(
        rule in silence.rules
        or _matches(what.host, silence.hosts)
        or _matches(what.function, silence.functions)
        or what.groups.intersection(silence.groups)
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return bool(name) and any(fnmatchcase(name, pattern) for pattern in patterns)
