"""Whole deployments, on each set of back ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.deployment import Deployment
from tests.services.mongodb import MongoServer
from tests.services.rabbitmq import RabbitServer


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoServer]:
    server = MongoServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def rabbit() -> Iterator[RabbitServer]:
    """One for each test: its queues are those of one deployment, and it may be killed."""
    server = RabbitServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path / "embedded") as deployment:
        yield deployment


@pytest.fixture
def cluster(tmp_path: Path, mongo: MongoServer, rabbit: RabbitServer) -> Iterator[Deployment]:
    database = f"acceptance_{tmp_path.name.replace('-', '_')[-40:]}"
    with Deployment(tmp_path / "cluster", mongo.url(database), rabbit.url) as deployment:
        yield deployment


@pytest.fixture(params=["embedded", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """The same test on both sets of back ends."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def lines_file(tmp_path: Path) -> Callable[[int], Path]:
    """Makes an input file of so many different lines."""

    def make(count: int) -> Path:
        path = tmp_path / "in.txt"
        path.write_text("".join(f"line number {number} of the file\n" for number in range(1, count + 1)))
        return path

    return make
