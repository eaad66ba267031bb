"""Every case runs over both back ends, each time on a fresh database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dts.store import Store, open_store
from tests.services.mongodb import MongoServer, available


@pytest.fixture(scope="session")
def mongo_server() -> Iterator[MongoServer]:
    """A MongoDB for all tests of the session."""
    if not available():
        pytest.skip("no mongod on this machine")
    with MongoServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "mongodb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: MongoServer = request.getfixturevalue("mongo_server")
    return server.url(f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def open_another(url: str) -> AsyncIterator[Callable[[], Store]]:
    """Gives further Store objects, to be started by the test, on the same data; closes them in the end."""
    async with AsyncExitStack() as stack:

        def open_one() -> Store:
            store = open_store(url)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """A store that is started and empty."""
    async with open_store(url) as started:
        yield started
