"""What daemons have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from dts.broker import Broker
from dts.config import Settings
from dts.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from dts.runtime.service import Service
from dts.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SQLITE = "sqlite:///"

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

    async def _insist(self, operation: Callable[[], Awaitable[T]], what: str) -> T:
        """Do what is safe to repeat, until the store and the broker let it."""
        pause = _FIRST_PAUSE
        while True:
            try:
                result = await operation()
            except (StoreUnavailable, BrokerUnavailable) as error:
                if pause == _FIRST_PAUSE:
                    logger.warning("cannot %s now, trying again until it works: %s", what, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                if pause > _FIRST_PAUSE:
                    logger.info("can %s again", what)
                return result

    async def _every(self, seconds: float, operation: Callable[[], Awaitable[None]], what: str) -> None:
        """Do something now and then, for good."""
        while True:
            await self._insist(operation, what)
            await asyncio.sleep(seconds)
