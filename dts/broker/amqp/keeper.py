"""A channel that messages come in by, and that is opened again whenever it or its connection is lost."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from dts.broker.amqp.channel import AMQP_ERRORS, Channel, Connection
from dts.broker.amqp.link import FIRST_PAUSE, LONGEST_PAUSE, REQUEST_TIMEOUT, Link
from dts.runtime.backoff import Backoff

log = logging.getLogger(__name__)


class ChannelKeeper(ABC):
    """Keeps one channel open that messages come in by, over every loss of the channel or of its connection."""

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self._name = name
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def open(self) -> None:
        """Begin; returns before a channel is there."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    @abstractmethod
    async def _set_up(self, connection: Connection, channel: Channel) -> None:
        """Declare, bind and consume on a new channel. Raises AMQP_ERRORS."""

    def _timed_out(self, connection: Connection) -> None:  # noqa: B027 - most need do nothing
        """`_set_up` has taken too long."""

    @abstractmethod
    def _forget(self) -> None:
        """The channel is gone, and what came by it and is not settled."""

    @abstractmethod
    def _wake(self) -> None:
        """Let those who wait look again: there is something, or it is closed."""

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            connection = await self._link.connection()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    self._channel = await connection.channel()
                    await self._set_up(connection, self._channel)
                self._ready.set()
                since = clock()
                await self._channel.lost.wait()
                if clock() - since > 1:
                    backoff.reset()
                log.info("%s: channel lost (%s), opening another", self._name, self._channel.why)
            except AMQP_ERRORS as error:
                log.warning("%s: cannot open a channel, will try again: %r", self._name, error)
                if isinstance(error, TimeoutError):
                    self._timed_out(connection)
            except Exception:
                # A consumer that ends in silence would be worse than one that complains for ever.
                log.exception("%s: cannot open a channel, will try again", self._name)
            finally:
                self._drop_channel()
            await backoff.wait()

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        self._ready.clear()
        self._forget()
        if channel is not None:
            channel.discard()

    async def close(self) -> None:
        """Take no more, and give back what is not settled. May be called twice."""
        self._closed = True
        self._wake()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
