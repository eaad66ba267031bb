"""Every case runs over both back ends: SQLite in a temporary folder, and a real RabbitMQ that the session shares.

Queues have names of their own in each test, so that tests do not meet. The event loop is uvloop, as in production.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from dts.broker import Broker, open_broker
from dts.broker.amqp import link as amqp_link
from tests.conformance.broker.peer import Peer
from tests.services.rabbitmq import RabbitServer, available


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of all tests here, and for some of them the one of asyncio as well."""
    if "test_events" in item.nodeid:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitServer]:
    """The RabbitMQ of the session."""
    if not available():
        pytest.skip("no rabbitmq-server on this machine")
    with RabbitServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "amqp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a broker, with a delivery limit of 3 to reach."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.db?delivery_limit=3"
    server: RabbitServer = request.getfixturevalue("rabbit")
    return f"{server.url}?delivery_limit=3"


@pytest.fixture(autouse=True)
def hasty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues of RabbitMQ are used at once, but in tests that kill it: each test makes some, which costs a second."""
    if "own" not in request.fixturenames:
        monkeypatch.setattr(amqp_link, "REGISTRY_SAVED_AFTER", 0.0)


@pytest.fixture
def queue() -> str:
    """The name of a queue that nobody has used."""
    return f"test.{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def broker(url: str) -> AsyncIterator[Broker]:
    """A broker that is started."""
    async with open_broker(url) as started:
        yield started


@pytest.fixture
async def other(url: str) -> AsyncIterator[Broker]:
    """Another broker object of the same URL, as another process would have it."""
    async with open_broker(url) as started:
        yield started


@pytest.fixture
async def start_peer() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Starts processes that do what `tests.conformance.broker.peer` can; kills those that are left in the end."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Peer:
            peer = await Peer.start(*arguments)
            stack.push_async_callback(peer.kill)
            return peer

        yield start
