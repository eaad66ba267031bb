"""`/health/…` and `/metrics`: for load balancers and monitors; not signed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dts.errors import DtsError
from dts.server.declare import declares
from dts.server.handlers._base import DtsHandler


class Live(msgspec.Struct):
    """That the process answers."""

    status: Literal["ok"]


class Ready(msgspec.Struct):
    """Whether the server can do its work; `store` and `broker` are `ok` or say what is wrong."""

    status: Literal["ok", "unavailable"]
    store: str
    broker: str


class LiveHandler(DtsHandler):
    """`/health/live`: whether the process answers."""

    @declares(answer=Live)
    def get(self) -> None:
        """It does."""
        self.answer({"status": "ok"})


class ReadyHandler(DtsHandler):
    """`/health/ready`: whether it can do its work: 200, or 503 naming what is away."""

    @declares(answer=Ready, statuses=(200, 503))
    async def get(self) -> None:
        """The state of the store and of the broker. Without the broker the server still accepts."""
        store, broker = await asyncio.gather(_state(self.context.store.ping()), _state(self.context.broker.ping()))
        ready = store == "ok"
        self.answer(
            {"status": "ok" if ready else "unavailable", "store": store, "broker": broker}, 200 if ready else 503
        )


class MetricsHandler(DtsHandler):
    """`/metrics`: figures of this process in the format of Prometheus."""

    @declares(gives=("text/plain",))
    def get(self) -> None:
        """All figures."""
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest())


async def _state(ping: Awaitable[None]) -> str:
    try:
        await ping
    except DtsError as error:
        return str(error)
    return "ok"
