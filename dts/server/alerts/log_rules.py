"""Which alert rules count a log record: matched where the records come in, since patterns look at each of them."""

from __future__ import annotations

import logging
import re
import time

from dts.config import DaemonsSettings
from dts.model import AlertRule, LogEntry, VirtualHost
from dts.server.alerts.rules import built_in_rules, rules_for
from dts.store import Store

logger = logging.getLogger(__name__)

_VALID = 5.0
"""Seconds for which rules that were read are good."""

_SEARCHED = 4096
"""Characters of a record that a pattern is looked for in: an expression may take long over a long text."""


class _Host:
    """The host of a record, as rules see it."""

    function = ""

    def __init__(self, host: str, groups: frozenset[str]) -> None:
        self.host = host
        self.groups = groups


class LogRules:
    """The rules about log records, read anew every few seconds."""

    def __init__(self, store: Store, settings: DaemonsSettings) -> None:
        self._store = store
        self._built_in = [rule for rule in built_in_rules(settings) if rule.kind == "log"]
        self._valid_until = 0.0
        self._rules: list[tuple[AlertRule, re.Pattern[str] | None]] = []
        self._groups: dict[str, frozenset[str]] = {}
        self._lowest = logging.CRITICAL

    async def refresh(self) -> None:
        """Read the rules, if it is time.

        Raises:
            StoreUnavailable: those that were read before stay.
        """
        if time.monotonic() < self._valid_until:
            return
        records = await self._store.list_records(AlertRule, where={"kind": "log"}, limit=None)
        hosts = await self._store.list_records(VirtualHost, limit=None)
        self._groups = {host.id: frozenset(host.groups) | frozenset(host.routes) for host in hosts}
        self._rules = [(rule, _compiled(rule)) for rule in [*records, *self._built_in]]
        self._lowest = min(rule.level for rule, _ in self._rules)
        self._valid_until = time.monotonic() + _VALID

    def matching(self, entry: LogEntry) -> list[str]:
        """The ids of the rules that count a record: of those that it fits, the most particular ones."""
        if entry.level < self._lowest:
            return []
        text = entry.message[:_SEARCHED]
        fitting = [
            rule
            for rule, pattern in self._rules
            if entry.level >= rule.level and (pattern is None or pattern.search(text))
        ]
        place = _Host(entry.host, self._groups.get(entry.host, frozenset()))
        return [rule.id for rule in rules_for(fitting, "log", "log", place)]


def _compiled(rule: AlertRule) -> re.Pattern[str] | None:
    if not rule.pattern:
        return None
    try:
        return re.compile(rule.pattern)
    except re.error as error:
        logger.warning("the pattern of the alert rule %s is not a regular expression: %s", rule.id, error)
        return re.compile(r"(?!)")  # matches nothing
