"""Logtracer: logs queue → store, and mails on records at or above a level, not more often than every so often."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from dts.broker import Consumer, Delivery
from dts.model import LogEntry, new_id
from dts.server.daemons._base import Daemon
from dts.server.notify.notice import Notice
from dts.server.notify.notifier import Notifier
from dts.wire import codec, dts_pb2, sanitize
from dts.wire.queues import LOGS

logger = logging.getLogger(__name__)

_MAX_MESSAGES = 512
_MAX_RECORD = 256 * 1024  # bytes
_MAX_TEXT = 16 * 1024  # characters of a record that are kept
_IN_A_MAIL = 50  # records; of further ones only how many they are
_PRUNE_INTERVAL = 60.0


class Logtracer(Daemon):
    """Keeps log records, as many as the settings allow."""

    async def _start(self) -> None:
        self._notifier = Notifier(self._store, self._settings)
        await self._stack.enter_async_context(self._notifier)
        self._level = logging.getLevelNamesMapping()[self._settings.daemons.log_mail_level]
        self._to_mail: deque[LogEntry] = deque(maxlen=_IN_A_MAIL)
        self._passed_over = 0
        self._news = asyncio.Event()
        consumer = await self._broker.consume(LOGS, prefetch=2 * _MAX_MESSAGES)
        self._stack.push_async_callback(consumer.close)
        self._spawn(self._trace(consumer), "logtracer")
        self._spawn(self._every(_PRUNE_INTERVAL, self._prune, "drop old log records"), "logtracer-prune")
        self._spawn(self._mail_now_and_then(), "logtracer-mail")

    async def _trace(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(_MAX_MESSAGES):
            entries = await self._read(consumer, deliveries, read_record)
            self._remember(await self._record(consumer, entries, self._store.add_logs, "keep log records"))

    def _remember(self, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            if entry.level >= self._level:
                if len(self._to_mail) == _IN_A_MAIL:
                    self._passed_over += 1
                self._to_mail.append(entry)
                self._news.set()

    async def _mail_now_and_then(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            entries, passed_over = list(self._to_mail), self._passed_over
            self._to_mail.clear()
            self._passed_over = 0
            await self._try(partial(self._mail, entries, passed_over), "mail log records")
            await asyncio.sleep(self._settings.daemons.log_mail_interval)

    async def _mail(self, entries: Sequence[LogEntry], passed_over: int) -> None:
        subject, text = describe(entries, passed_over)
        await self._notifier.post(Notice(new_id(), "logs", subject, text))

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


def describe(entries: Sequence[LogEntry], passed_over: int) -> tuple[str, str]:
    """Subject and text of a mail about log records."""
    first = entries[0]
    subject = f"{logging.getLevelName(first.level)} on {first.host}: {first.message[:100]}"
    count = len(entries) + passed_over
    if count > 1:
        subject = f"{count} log records, among them {subject}"
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(entry.time))} {logging.getLevelName(entry.level)} "
        f"{entry.host} {entry.source} {entry.logger}{f' job {entry.job}' if entry.job else ''}\n{entry.message}\n"
        for entry in entries
    ]
    if passed_over:
        lines.append(f"and {passed_over} more: GET /admin/logs/ has them")
    return subject, "\n".join(lines)
