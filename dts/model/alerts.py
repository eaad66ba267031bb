"""What administrators keep of alerts: rules, and silences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AlertRule:
    """When somebody is to be notified of what.

    `kind` is what is looked at. It is the matter when the figure reaches `threshold` for `lasting` seconds, and over
    when it is beyond `clear` for as long; None is what is usual for the kind. `repeat` is after how many seconds the
    notice is repeated while it lasts; 0 is never, None what is usual. A rule with `hosts`, `groups` or `functions`
    (names, with * and ?) is for those; of the rules of a kind that match, the most particular ones count, also those
    that are not `enabled`. Log records count from `level` on, if `pattern`, a regular expression, is found in them.
    `target` is the file or the host:port of a certificate, or a folder of the daemons' host.
    """

    id: str
    kind: str
    threshold: float | None = None
    clear: float | None = None
    lasting: float | None = None
    repeat: float | None = None
    hosts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    level: int = 40
    pattern: str = ""
    target: str = ""
    notify: tuple[str, ...] = ()
    severity: str = "warning"
    enabled: bool = True
    description: str = ""
    created: float = 0.0
    modified: float = 0.0
    version: int = 1


@dataclass(frozen=True, slots=True)
class Silence:
    """A time in which alerts notify nobody: a maintenance window. What it names is silenced; without any name, all is.

    `starts` and `ends` are in seconds since the epoch. With `every`, a number of seconds, it comes again and again.
    """

    id: str
    starts: float = 0.0
    ends: float = 0.0
    every: float | None = None
    hosts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    description: str = ""
    created: float = 0.0
    modified: float = 0.0
    version: int = 1

    def is_on(self, now: float) -> bool:
        """Whether it holds at a time."""
        if now < self.starts:
            return False
        length = self.ends - self.starts
        return (now - self.starts) % self.every < length if self.every else now < self.ends
