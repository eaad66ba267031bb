"""`/health/…` and `/metrics`: for load balancers and monitors; not signed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dts.errors import DtsError
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.declare import declares

logger = logging.getLogger(__name__)


class Live(msgspec.Struct):
    """That the process answers."""

    status: Literal["ok"]


class Ready(msgspec.Struct):
    """Whether the server can do its work. Why a part does not answer is in the server's log: anybody may ask here."""

    status: Literal["ok", "unavailable"]
    store: Literal["ok", "unavailable"]
    broker: Literal["ok", "unavailable"]
    key_file: Literal["unavailable"] | msgspec.UnsetType = msgspec.UNSET
    """There only when the server has another key file than the one that the store was used with."""


class LiveHandler(DtsHandler):
    """`/health/live`: whether the process answers."""

    @declares(answer=Live)
    def get(self) -> None:
        """It does."""
        self.answer({"status": "ok"})

    head = get


class ReadyHandler(DtsHandler):
    """`/health/ready`: whether it can do its work: 200, or 503 naming what is away."""

    @declares(answer=Ready, statuses=(200, 503))
    async def get(self) -> None:
        """The state of the store, the broker and the key file. Without the broker the server still accepts."""
        store, broker, key_file = await asyncio.gather(
            self._state("store", self.context.store.ping()),
            self._state("broker", self.context.broker.ping()),
            self._state("key file", self.context.accounts.check_key_file()),
        )
        ready = store == "ok" and key_file == "ok"
        status: Literal["ok", "unavailable"] = "ok" if ready else "unavailable"
        wrong = msgspec.UNSET if key_file == "ok" or store != "ok" else key_file
        self.answer(Ready(status, store, broker, wrong), 200 if ready else 503)

    head = get

    async def _state(self, part: str, ping: Awaitable[None]) -> Literal["ok", "unavailable"]:
        try:
            await ping
        except DtsError as error:
            self.context.outages.failed("not ready: %s: %s", part, error)
            return "unavailable"
        return "ok"


class MetricsHandler(DtsHandler):
    """`/metrics`: figures of this process, and of the fleet, in the format of Prometheus."""

    @declares(gives=("text/plain",))
    async def get(self) -> None:
        """All figures."""
        await self.context.figures.refresh()
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest())

    head = get
