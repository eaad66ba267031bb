"""What the worker reports besides results: log records and heartbeats.

Neither may delay the work: they are kept in a queue of fixed length, published by a task of their own,
and dropped, oldest first, while the broker is away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque

from dts.broker import Broker, Message
from dts.errors import BrokerError
from dts.runtime.service import Service
from dts.wire import sanitize
from dts.wire.dts_pb2 import LogRecord
from dts.wire.queues import HEARTBEATS, LOGS
from dts.worker.attempt.failure import clip, record_text

logger = logging.getLogger(__name__)

MAX_RECORDS = 5000
"""Records that wait for the broker; older ones are dropped."""
_MAX_TEXT = 8 * 1024  # characters of a record
_TIMEOUT = 5.0
"""Seconds that the broker has to take what is published here."""


class LogShipper(Service):
    """Publishes log records, bounded."""

    def __init__(self, broker: Broker, *, max_records: int = MAX_RECORDS) -> None:
        super().__init__()
        self.dropped = 0
        """Records that were dropped since the last one that was published."""
        self._broker = broker
        self._records: deque[bytes] = deque()
        self._max = max_records
        self._ready = asyncio.Event()

    async def _start(self) -> None:
        self._spawn(self._run(), "log shipper")

    def put(self, record: bytes) -> None:
        """Publish an encoded LogRecord when there is time."""
        if len(self._records) >= self._max:
            self._records.popleft()
            self.dropped += 1
        self._records.append(record)
        self._ready.set()

    async def flush(self) -> None:
        """Publish what waits, once; what the broker does not take is kept."""
        batch = [self._records.popleft() for _ in range(min(len(self._records), 256))]
        if not batch:
            return
        try:
            await self._broker.publish(LOGS, [Message(record) for record in batch], timeout=_TIMEOUT)
        except BrokerError:
            room = self._max - len(self._records)
            self.dropped += max(0, len(batch) - room)
            self._records.extendleft(reversed(batch[max(0, len(batch) - room) :]))
            raise

    async def _run(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            try:
                while self._records:
                    await self.flush()
            except BrokerError:
                await asyncio.sleep(1.0)
                self._ready.set()
                continue
            if self.dropped:
                why = "the broker was away, or they came faster than it took them"
                logger.warning("%d log records were dropped: %s", self.dropped, why)
                self.dropped = 0


class ShippingHandler(logging.Handler):
    """Hands this process's log records to a shipper. Belongs to one event loop's thread."""

    def __init__(self, shipper: LogShipper, source: str, level: int) -> None:
        super().__init__(level)
        self._shipper, self._source, self._host = shipper, source, socket.gethostname()
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one record."""
        try:
            shipped = LogRecord(
                host=self._host,
                source=sanitize.name(self._source),
                time=sanitize.moment(record.created, time.time()),
                level=sanitize.level(record.levelno),
                logger=sanitize.name(record.name),
                message=clip(record_text(record), _MAX_TEXT),
            )
            self._loop.call_soon_threadsafe(self._shipper.put, shipped.SerializeToString())
        except RuntimeError:
            pass  # the loop is closed, and the worker at its end
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not fail its caller
            self.handleError(record)


async def publish_heartbeat(broker: Broker, body: bytes, *, timeout: float = _TIMEOUT) -> bool:
    """Publish a heartbeat; False if it was dropped since the broker is away."""
    try:
        await broker.publish(HEARTBEATS, [Message(body)], timeout=timeout)
    except BrokerError:
        return False
    return True
