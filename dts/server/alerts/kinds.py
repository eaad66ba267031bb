"""What rules can look at, with what is usual for each: one table."""

from __future__ import annotations

from dataclasses import dataclass

from dts.model import AlertRule

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert. `about` says of what: host, route, function, target or system. `events` are counted until there
    were none for `clear` seconds; else a figure is compared, `low` for one that is bad when it is low.

    `slack` is by what share of the threshold a figure must be better to be well again; 0 for what needs no such band.
    """

    about: str
    threshold: float
    lasting: float = 0.0
    repeat: float = _DAY
    slack: float = 0.0
    events: bool = False
    low: bool = False
    unit: str = ""


QUIET = 300.0
"""Seconds without a further event after which an alert about events is over."""

KINDS: dict[str, Kind] = {
    "silent": Kind("host", 30.0, unit=" s"),
    "cpu": Kind("host", 95.0, 60.0, slack=0.05, unit=" %"),
    "memory": Kind("host", 90.0, 60.0, slack=0.05, unit=" %"),
    "disk": Kind("host", 90.0, 60.0, slack=0.05, unit=" %"),
    "load": Kind("host", 64.0, 300.0, slack=0.1),
    "childless": Kind("host", 1.0),
    "queue": Kind("route", 10_000.0, 300.0, slack=0.2, unit=" messages"),
    "queue_age": Kind("route", 600.0, 60.0, slack=0.2, unit=" s"),
    "failures": Kind("function", 50.0, 60.0, slack=0.2, unit=" %"),
    "dead": Kind("function", 1.0, 10.0, repeat=3600.0, events=True),
    "log": Kind("host", 1.0, 10.0, repeat=300.0, events=True),
    "run_finished": Kind("function", 1.0),
    "run_failed": Kind("function", 1.0),
    "broker": Kind("system", 60.0, unit=" s"),
    "store": Kind("system", 60.0, unit=" s"),
    "certificate": Kind("target", 14.0, low=True, unit=" days"),
    "space": Kind("target", 90.0, 60.0, slack=0.05, unit=" %"),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """A rule's numbers, with what is usual for its kind where it does not say."""

    threshold: float
    clear: float
    lasting: float
    repeat: float

    @classmethod
    def of(cls, rule: AlertRule) -> Terms:
        """The numbers of a rule."""
        kind = KINDS[rule.kind]
        threshold = kind.threshold if rule.threshold is None else rule.threshold
        usual = QUIET if kind.events else threshold * (1 + kind.slack if kind.low else 1 - kind.slack)
        return cls(
            threshold,
            usual if rule.clear is None else rule.clear,
            kind.lasting if rule.lasting is None else rule.lasting,
            kind.repeat if rule.repeat is None else rule.repeat,
        )
