"""Logtracer: logs queue → store, and counts the records that alert rules are for."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence

from dts.broker import Consumer, Delivery
from dts.model import LogEntry
from dts.server.alerts.log_rules import LogRules
from dts.server.alerts.signals import Signal, Signals
from dts.server.daemons._base import Daemon
from dts.wire import codec, dts_pb2, sanitize
from dts.wire.queues import LOGS

logger = logging.getLogger(__name__)

_MAX_MESSAGES = 512
_MAX_RECORD = 256 * 1024  # bytes
_MAX_TEXT = 16 * 1024  # characters of a record that are kept
_PRUNE_INTERVAL = 60.0


class Logtracer(Daemon):
    """Keeps log records, as many as the settings allow."""

    async def _start(self) -> None:
        self._rules = LogRules(self._store, self._settings.daemons)
        self._signals = Signals(self._store)
        consumer = await self._broker.consume(LOGS, prefetch=2 * _MAX_MESSAGES)
        self._stack.push_async_callback(consumer.close)
        self._spawn(self._trace(consumer), "logtracer")
        self._spawn(self._every(_PRUNE_INTERVAL, self._prune, "drop old log records"), "logtracer-prune")

    async def _trace(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(_MAX_MESSAGES):
            entries = await self._read(consumer, deliveries, read_record)
            await self._count(await self._record(consumer, entries, self._store.add_logs, "keep log records"))

    async def _count(self, entries: Sequence[LogEntry]) -> None:
        """Count the records that alert rules are for."""
        await self._retry_until_available(self._rules.refresh, "read the alert rules")
        for entry in entries:
            for rule in self._rules.matching(entry):
                self._signals.add(Signal("log", entry.message, entry.host, level=entry.level, rule=rule))
        await self._retry_until_available(self._signals.flush, "count log records for alerts")

    async def _prune(self) -> None:
        daemons = self._settings.daemons
        await self._store.prune_logs(before=time.time() - daemons.keep_logs_for, keep=daemons.keep_logs)


def read_record(delivery: Delivery) -> LogEntry:
    """The record in a delivery. Its id follows from what it says, so that a repeat is known as one.

    Raises:
        WireError: the body is no LogRecord.
        TooLarge: it is too large.
    """
    message = delivery.message
    record = codec.decode(dts_pb2.LogRecord, message.body, message.content_encoding, max_size=_MAX_RECORD)
    digest = hashlib.blake2b(message.body, digest_size=8).hexdigest()
    when = sanitize.moment(record.time, time.time())
    text = record.message if len(record.message) <= _MAX_TEXT else record.message[:_MAX_TEXT] + "…"
    return LogEntry(
        id=f"{int(when * 1000):014x}{digest}",
        host=sanitize.name(record.host),
        source=sanitize.name(record.source),
        time=when,
        level=sanitize.level(record.level),
        logger=sanitize.name(record.logger),
        message=text,
        job=sanitize.job(record.job),
    )
