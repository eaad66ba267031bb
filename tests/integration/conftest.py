"""A real server on the embedded back ends, in this process, and a client that signs."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from dts.auth import Credentials, KeccakAuthenticator, Request, derive_key
from dts.broker import Broker, Message
from dts.config import Settings, load_settings
from dts.model import Run, User, job_id, new_id
from dts.runtime.private_files import create_private
from dts.server.access.key_box import KeyBox
from dts.server.app import Server
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2, queues
from tests.services import mongodb, rabbitmq, sshd
from tests.services.fleet import open_sealed


@pytest.fixture(scope="module")
def mongo() -> Iterator[mongodb.MongoServer]:
    """A MongoDB for the tests of a module."""
    if not mongodb.available():
        pytest.skip("no mongod on this machine")
    with mongodb.MongoServer() as server:
        yield server


@pytest.fixture(scope="module")
def rabbit() -> Iterator[rabbitmq.RabbitServer]:
    """A RabbitMQ for the tests of a module."""
    if not rabbitmq.available():
        pytest.skip("no rabbitmq-server on this machine")
    with rabbitmq.RabbitServer() as server:
        yield server


@pytest.fixture
def ssh_server() -> Iterator[sshd.SshServer]:
    """A host of the fleet: an OpenSSH server."""
    if not sshd.available():
        pytest.skip("no openssh-server on this machine")
    with sshd.SshServer() as server:
        yield server


@pytest.fixture(params=["embedded", "cluster"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The URLs of a store and a broker."""
    if request.param == "embedded":
        return f"sqlite:///{tmp_path}/store.db", f"sqlite:///{tmp_path}/queue.db"
    mongo, rabbit = (request.getfixturevalue(name) for name in ("mongo", "rabbit"))
    for name in ("key", "server.key"):  # the module's RabbitMQ is one installation's
        create_private(tmp_path / name, base64.urlsafe_b64encode(bytes(range(32))))
    return mongo.url(f"test_{uuid.uuid4().hex}"), rabbit.url


@dataclass
class Api:
    """Calls a server as one user."""

    url: str
    credentials: Credentials

    async def send(
        self, method: str, path: str, body: bytes | None = None, *, sign: bool = True, **headers: str
    ) -> HTTPResponse:
        """One request, whatever the answer. Header names are given with underscores."""
        if body is None and method in ("POST", "PUT", "PATCH"):
            body = b""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":  # else Tornado sends a type of its own, which is not signed
            fields.setdefault("Content-Type", "application/json")
        if sign:
            request = Request.to(method, self.url + path, fields)
            fields.setdefault("Authorization", KeccakAuthenticator(self.credentials).sign(request, body or b""))
        return await AsyncHTTPClient().fetch(
            HTTPRequest(self.url + path, method=method, body=body, headers=fields), raise_error=False
        )

    async def call(self, method: str, path: str, params: object = None, *, status: int = 200) -> Any:
        """A request with `params`; its `result`, after a check of the status."""
        body = None if params is None else msgspec.json.encode({"params": params})
        answer = await self.send(method, path, body)
        assert answer.code == status, (answer.code, answer.body)
        return msgspec.json.decode(answer.body)["result"]

    async def refused(self, method: str, path: str, params: object = None, *, status: int, code: str) -> str:
        """A request that must fail; the error's message."""
        body = None if params is None else msgspec.json.encode({"params": params})
        return check_refusal(await self.send(method, path, body), status, code)


def check_refusal(answer: HTTPResponse, status: int, code: str) -> str:
    """Check the envelope of an error; returns its message."""
    assert answer.code == status, (answer.code, answer.body)
    error = msgspec.json.decode(answer.body)["error"]
    assert error["code"] == code, error
    assert error["message"]
    return str(error["message"])


async def a_run_with_jobs(site: Site, user: str, function: str, count: int = 1) -> tuple[str, str]:
    """A run with one block that is on its way, as a server stores it; the ids of the run and of its first job."""
    run = Run(new_id(), user, function, 2048, created=time.time())
    batch = batch_from_arguments([Arguments(b"[]", b"")] * count)
    await site.store.add_blocks([replace(new_block(run, 0, function, batch), published=True)], run=run)
    return run.id, job_id(run.id, 0)


@dataclass
class Site:
    """A server with direct access to what is behind it."""

    url: str
    settings: Settings
    store: Store
    broker: Broker

    def api(self, user: str = "admin", secret: str | None = None) -> Api:
        """A caller; the administrator unless another user is named."""
        if secret is None:
            secret = self.settings.server.admin_secret_file.read_text().strip()
        return Api(self.url, Credentials(user, secret))

    async def add_user(self, user: str, *, roles: Iterable[str] = ("user",), namespaces: tuple[str, ...] = ()) -> Api:
        """A new user, and a caller as that user."""
        key = KeyBox.open(self.settings.server.key_file).seal(derive_key(user, f"secret of {user}"), f"users/{user}")
        await self.store.add_user(User(user, key, frozenset(roles), namespaces=namespaces))
        return self.api(user, f"secret of {user}")

    async def take_messages(self, count: int, route: str = "default") -> list[dts_pb2.JobBatch]:
        """The jobs of messages until there are `count` jobs, as a worker would take them."""
        batches: list[dts_pb2.JobBatch] = []
        async with await self.broker.consume(queues.jobs_queue(route), prefetch=1000) as consumer:
            while sum(len(batch.jobs) for batch in batches) < count:
                deliveries = await consumer.receive(100)
                for delivery in deliveries:
                    message = delivery.message
                    batches.append(codec.decode(dts_pb2.JobBatch, message.body, message.content_encoding))
                await consumer.ack(deliveries)
        return batches

    async def finish(self, batch: dts_pb2.JobBatch, *, value: bytes = b'"done"', fail: tuple[int, ...] = ()) -> None:
        """Send results for the jobs of a message, as a worker would."""
        results = dts_pb2.ResultBatch(
            block=batch.block, run=batch.run, function=batch.function, worker="w", version="v", started=time.time()
        )
        for job in batch.jobs:
            if job.index in fail:
                error = dts_pb2.Error(type="ValueError", message="no", traceback="…")
                results.results.add(index=job.index, status=dts_pb2.FAILED, error=error, duration=0.001)
            else:
                results.results.add(index=job.index, status=dts_pb2.SUCCEEDED, value=value, duration=0.001)
        await self.broker.publish(queues.RESULTS, [Message(*codec.encode(results))])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        None,
        environment={},
        flags={
            "store": {"url": f"sqlite:///{tmp_path}/store.db"},
            "broker": {"url": f"sqlite:///{tmp_path}/queue.db"},
            "server": {
                "port": 0,
                "key_file": str(tmp_path / "server.key"),
                "admin_secret_file": str(tmp_path / "admin.secret"),
                "max_body": 200_000,
                "max_slice": 4,
            },
            "daemons": {"relay_interval": 0.05},
        },
    )


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    async with (
        Server(settings) as server,
        open_store(settings.store.url) as store,
        open_sealed(settings) as broker,
    ):
        yield Site(f"http://127.0.0.1:{server.port}", settings, store, broker)
