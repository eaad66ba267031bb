"""What daemons have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from dts.broker import Broker, Consumer, Delivery
from dts.config import Settings
from dts.errors import (
    BrokerUnavailable,
    ConfigError,
    DtsError,
    StoreUnavailable,
)
from dts.runtime.backoff import Backoff
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service
from dts.server.record.faults import CONTENT_FAULTS
from dts.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SQLITE = "sqlite:///"

_MAX_REASON = 500  # characters of why a message is a dead letter

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


def check_files(settings: Settings) -> None:
    """Make sure that the embedded store and the embedded broker have a file each.

    Raises:
        ConfigError: their URLs name the same one.
    """
    store, broker = settings.store.url.partition("?")[0], settings.broker.url.partition("?")[0]
    if all(url.startswith(_SQLITE) for url in (store, broker)):
        path = Path(store.removeprefix(_SQLITE))
        if path.resolve() == Path(broker.removeprefix(_SQLITE)).resolve():
            raise ConfigError(
                f"the URLs of the store and of the broker name the same file {path}: each needs one of its own"
            )


class Daemon(Service):
    """A service over the store and the broker. Several of a kind may run at once, on several machines."""

    def __init__(self, store: Store, broker: Broker, settings: Settings) -> None:
        super().__init__()
        self._store = store
        self._broker = broker
        self._settings = settings
        self._outage = OutageLog(logger, 60.0)  # for all that it does: they need the same store and broker

    async def _retry_until_available(self, operation: Callable[[], Awaitable[T]], what: str) -> T:
        """Do what is safe to repeat, again until the store and the broker are there."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                result = await operation()
            except (StoreUnavailable, BrokerUnavailable) as error:
                self._outage.failed("cannot %s now, trying again until it works: %s", what, error)
                await backoff.wait()
            else:
                self._outage.worked("the store and the broker can be used again")
                return result

    async def _read(
        self, consumer: Consumer, deliveries: Sequence[Delivery], read: Callable[[Delivery], T]
    ) -> list[tuple[Delivery, T]]:
        """What deliveries say; those that cannot be read go to the dead letters.

        Raises:
            MemoryError: there is none left to read with: they stay where they are.
        """
        found: list[tuple[Delivery, T]] = []
        for delivery in deliveries:
            try:
                found.append((delivery, read(delivery)))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a message does to its reader, it ends no daemon
                await self._reject(consumer, delivery, "cannot be read", error)
        return found

    async def _record(
        self,
        consumer: Consumer,
        items: Sequence[tuple[Delivery, T]],
        record: Callable[[Sequence[T]], Awaitable[None]],
        what: str,
    ) -> list[T]:
        """Record what deliveries say, which is safe to repeat, all at once, and ack them; returns what is recorded.

        It is insisted on while the store or the broker is away. When it fails over what is in them, each is tried by
        itself, and those of which that fails go to the dead letters: no message ends a daemon, or keeps others waiting.

        Raises:
            Exception: what is none of CONTENT_FAULTS. Nothing is rejected for that; what is not acked comes again.
        """
        try:
            await self._retry_until_available(partial(record, [item for _, item in items]), what)
        except CONTENT_FAULTS as error:
            if len(items) == 1:
                await self._reject(consumer, items[0][0], "cannot be recorded", error)
                return []
            return [item for each in items for item in await self._record(consumer, [each], record, what)]
        await consumer.ack([delivery for delivery, _ in items])
        return [item for _, item in items]

    async def _reject(self, consumer: Consumer, delivery: Delivery, what: str, error: Exception) -> None:
        why = str(error) if isinstance(error, DtsError) else f"{type(error).__name__}: {error}"
        logger.warning("a message on %s %s: %s", delivery.queue, what, why[:_MAX_REASON])
        await consumer.reject([delivery], why[:_MAX_REASON])

    async def _try(self, operation: Callable[[], Awaitable[None]], what: str) -> None:
        """Do what is safe to repeat, and what others must not suffer from if it cannot be done."""
        try:
            await self._retry_until_available(operation, what)
        except Exception:
            logger.exception("cannot %s", what)

    async def _every(self, seconds: float, operation: Callable[[], Awaitable[None]], what: str) -> None:
        """Do something now and then, for good."""
        while True:
            await self._retry_until_available(operation, what)
            await asyncio.sleep(seconds)
