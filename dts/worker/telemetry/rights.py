"""Finds out whether the worker's user on RabbitMQ may do more than a worker needs."""

from __future__ import annotations

import asyncio
import logging

from dts.broker import Broker
from dts.errors import BrokerUnavailable
from dts.runtime.service import Service
from dts.wire.queues import DEAD, HEARTBEATS, LOGS, RESULTS, jobs_queue

logger = logging.getLogger(__name__)

_OF_SERVERS = (jobs_queue("server"), RESULTS, HEARTBEATS, LOGS, DEAD)
"""Queues that servers and daemons read, and no worker."""

_AGAIN = 5.0  # seconds


async def describe_excess(broker: Broker) -> str:
    """What a worker's user may do on a broker and need not, in a sentence; empty for nothing.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    if broker.kind != "amqp":
        return ""
    readable = [queue for queue in _OF_SERVERS if await broker.may_read(queue)]
    if not readable:
        return ""
    return f"its RabbitMQ user may take messages off {', '.join(readable)}, which no worker needs"


class RightsCheck(Service):
    """Looks once, as soon as the broker answers. `note` is what it found."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker
        self.note = ""

    async def _start(self) -> None:
        self._spawn(self._look(), "rights")

    async def _look(self) -> None:
        while True:
            try:
                self.note = await describe_excess(self._broker)
            except BrokerUnavailable:
                await asyncio.sleep(_AGAIN)
                continue
            if self.note:
                logger.info("%s: give workers a user of their own (docs/security.md)", self.note)
            return
