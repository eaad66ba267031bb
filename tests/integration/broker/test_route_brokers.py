"""Routes whose jobs are with a broker of their own: how they get there, come back, and what happens when it is away."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs

from dts.broker import Broker, Message, open_broker
from dts.client import DtsClient
from dts.config import Settings, load_settings
from dts.errors import ConfigError, RouteUnavailable
from dts.model import Function, Limits
from dts.server.app import Server
from dts.store import Store, open_store
from dts.wire.queues import DEAD, jobs_queue
from dts.worker.worker import Worker
from tests.services.base import free_port
from tests.services.fleet import open_sealed
from tests.services.waiting import within

FLAKY = """
from dts.worker import context
def main(word):
    if context.attempt < 2:
        raise OSError("the first time it fails")
    return word.upper()
"""


@dataclass
class Fleet:
    """A server with its daemons, a broker far away for the route `far`, and a client."""

    settings: Settings
    store: Store
    client: DtsClient
    folder: Path

    def worker(self, broker: Broker) -> Worker:
        """A worker at home that serves the route `far` as well."""
        return Worker(self.settings.worker, broker)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with the_fleet(tmp_path, far=f"sqlite:///{tmp_path}/far.db") as fleet:
        yield fleet


@asynccontextmanager
async def the_fleet(folder: Path, *, far: str, limits: Limits | None = None) -> AsyncIterator[Fleet]:
    """All of it, in a folder, with the route `far` at a broker with that URL; `limits` are those of each function."""
    functions = folder / "functions"
    (functions / "own").mkdir(parents=True)
    (functions / "own/flaky.py").write_text(FLAKY)
    (functions / "own/near.py").write_text("def main(word):\n    return word.upper()\n")
    flags = {
        "store": {"url": f"sqlite:///{folder}/store.db"},
        "broker": {"url": f"sqlite:///{folder}/queue.db", "route": [{"name": "far", "url": far}]},
        "server": {"port": 0, "key_file": f"{folder}/key", "admin_secret_file": f"{folder}/secret"},
        "daemons": {"relay_interval": 0.05},
        "worker": {
            "processes": 1,
            "name": "w",
            "functions": str(functions),
            "backoff_base": 0.1,
            "route": [{"name": "far", "broker": far}],
        },
    }
    settings: Settings = load_settings(None, environment={}, flags=flags)
    async with Server(settings) as server, open_store(settings.store.url) as store:
        await store.add_function(Function("own/flaky", route="far", max_attempts=3, limits=limits or Limits()))
        await store.add_function(Function("own/near", limits=limits or Limits()))
        secret = (folder / "secret").read_text().strip()
        async with DtsClient("admin", secret, f"http://127.0.0.1:{server.port}") as client:
            yield Fleet(settings, store, client, folder)


def queued(folder: Path, name: str) -> list[str]:
    """The queues of the messages in a broker's file."""
    with sqlite3.connect(folder / name) as db:
        return [row[0] for row in db.execute("SELECT queue FROM message")]


async def test_a_job_of_the_route_and_its_next_attempt_go_to_its_broker(fleet: Fleet) -> None:
    async with open_sealed(fleet.settings) as broker, fleet.worker(broker):
        job = await fleet.client.get(await fleet.client.submit("own/flaky", "word"), wait=20)
        assert (job["state"], job["result"], job["attempt"]) == ("succeeded", "WORD", 2)
        at_home = await fleet.client.get(await fleet.client.submit("text/upper", "word"), wait=20)
        assert at_home["result"] == "WORD"


async def test_jobs_wait_with_their_broker(fleet: Fleet) -> None:
    await fleet.client.submit("own/flaky", "word")
    await fleet.client.submit("text/upper", "word")
    async with within():
        while not (queued(fleet.folder, "far.db") and queued(fleet.folder, "queue.db")):
            await asyncio.sleep(0.02)
    assert queued(fleet.folder, "far.db") == [jobs_queue("far")]
    assert queued(fleet.folder, "queue.db") == [jobs_queue("default")]


async def test_what_died_with_that_broker_is_buried(fleet: Fleet) -> None:
    job = await fleet.client.submit("own/flaky", "word")
    async with open_sealed(fleet.settings, fleet.settings.broker.routes["far"]) as far:
        async with await far.consume(jobs_queue("far"), prefetch=1) as consumer:
            await consumer.reject(await consumer.receive(), "nobody wants it")
        ended = await fleet.client.get(job, wait=20)
        assert (ended["state"], ended["error"]["reason"]) == ("failed", "dead_letter")
        assert [letter.reason for letter in await fleet.store.list_dead_letters()] == ["nobody wants it"]
        assert (await far.depth(DEAD)).ready == 0


async def test_a_broker_that_is_away_keeps_nobody_else_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.broker.routed._PATIENCE", 0.3)
    nobody = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    message = [Message(b"job")]
    async with open_broker(f"sqlite:///{tmp_path}/queue.db", {"far": nobody, "near": nobody}) as broker:
        assert len(broker.parts) == 2
        with pytest.raises(RouteUnavailable):
            await broker.publish(jobs_queue("far"), message)
        for _ in range(50):
            with pytest.raises(RouteUnavailable, match="a moment ago"):  # that is: it was not tried again
                await broker.publish(jobs_queue("near"), message)
        await broker.publish(jobs_queue("default"), message)
        assert (await broker.depth(jobs_queue("default"))).ready == 1
        await broker.ping()


async def test_jobs_under_a_limit_wait_for_no_broker_but_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.broker.routed._PATIENCE", 0.3)
    nobody = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    async with the_fleet(tmp_path, far=nobody, limits=Limits(running=1)) as fleet:
        far = [await fleet.client.submit("own/flaky", "word") for _ in range(3)]
        near = [await fleet.client.submit("own/near", "word") for _ in range(3)]
        settings = structs.replace(fleet.settings.worker, route=())
        async with open_sealed(fleet.settings) as broker, Worker(settings, broker):
            for job in near:
                assert (await fleet.client.get(job, wait=20))["state"] == "succeeded"
        assert {(await fleet.client.get(job))["state"] for job in far} <= {"accepted", "queued", "delayed"}


def test_a_route_has_one_broker() -> None:
    twice = {"broker": {"route": [{"name": "far", "url": "sqlite:///a.db"}, {"name": "far", "url": "sqlite:///b.db"}]}}
    with pytest.raises(ConfigError, match="a route is there twice"):
        load_settings(None, environment={}, flags=twice)
