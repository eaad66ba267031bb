"""The description of the interface, and the whole interface driven from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from requests import PreparedRequest
from requests.auth import AuthBase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.config import Settings, load_settings
from dts.server.access.roles import TABLE
from dts.server.app import Server
from dts.server.handlers.declare import declaration_of
from dts.server.openapi import describe
from dts.server.routes import ROUTES
from tests.integration.conftest import Site

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
EXAMPLES = 15  # a method in each mode: enough to find most, few enough for a test that is run often
MAX_WAIT = 0.05  # seconds: what waits for results would otherwise do so for half a minute


async def test_the_document_and_its_page_need_no_signature_and_no_network(site: Site) -> None:
    api = site.api()
    document = msgspec.json.decode((await api.send("GET", "/openapi.json", sign=False)).body)
    assert document["openapi"] == "3.1.0"
    assert document == msgspec.json.decode(msgspec.json.encode(describe(ROUTES)))
    page = await api.send("GET", "/docs", sign=False)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert b"//" not in page.body, "nothing comes from elsewhere"
    for asset in ("docs.js", "docs.css"):
        assert asset.encode() in page.body
        assert (await api.send("GET", f"/docs/{asset}", sign=False)).code == 200
    for strange in ("none.js", "..%2fconsts.py", "%2e%2e"):
        assert (await api.send("GET", f"/docs/{strange}", sign=False)).code == 404


def test_conflicts_and_methods_that_are_not_there_are_documented() -> None:
    paths = describe(ROUTES)["paths"]
    for method in ("patch", "delete"):
        assert "last_administrator" in paths["/admin/users/{id}"][method]["responses"]["409"]["description"]
        assert "last_administrator" not in str(paths["/admin/vhosts/{id}"][method])
    assert "run_ended" in paths["/runs/{id}"]["delete"]["responses"]["409"]["description"]
    assert all("405" in operation["responses"] for methods in paths.values() for operation in methods.values())


def test_every_method_declares_what_it_takes_and_gives() -> None:
    document = describe(ROUTES)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert set(TABLE) <= described
    for route in ROUTES:
        for method in ("get", "post", "put", "patch", "delete"):
            if (method.upper(), route.template) in TABLE:
                assert declaration_of(getattr(route.handler, method)) is not None, (method, route.template)


@schemathesis.serializer("application/x-ndjson", "application/x-protobuf")
def as_it_is(context: object, value: Any) -> bytes:
    """Blocks are bytes to schemathesis, whatever it makes of them."""
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)


@dataclass
class Signature(AuthBase):
    """Signs what schemathesis sends, as it goes out."""

    authenticator: KeccakAuthenticator

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        body = request.body or b""
        head = Request.to(request.method or "", request.url or "", request.headers)
        request.headers["Authorization"] = self.authenticator.sign(
            head, body.encode() if isinstance(body, str) else body
        )
        return request


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Settings]]:
    """A server in a thread of its own: its URL and its settings."""
    folder = tmp_path
    flags = {
        "store": {"url": f"sqlite:///{folder}/store.db"},
        "broker": {"url": f"sqlite:///{folder}/queue.db"},
        "server": {"port": 0, "key_file": f"{folder}/key", "admin_secret_file": f"{folder}/secret"},
    }
    loaded = load_settings(None, environment={}, flags=flags)
    started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with Server(loaded) as server:
            ports.append(server.port)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(20)
    yield f"http://127.0.0.1:{ports[0]}", loaded
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


def furnish(url: str, loaded: Settings) -> tuple[Signature, Signature, dict[str, str]]:
    """An administrator's signature, that of somebody whose secret may be changed, and ids that there are, by path."""
    admin = Signature(KeccakAuthenticator(Credentials("admin", loaded.server.admin_secret_file.read_text().strip())))

    def make(path: str, params: object) -> Any:
        answer = requests.post(f"{url}{path}", json={"params": params}, auth=admin, timeout=10)
        assert answer.status_code == 201, answer.text
        return answer.json()["result"]

    for user in ("somebody", "spare"):
        make("/admin/users/", {"id": user, "secret": "a long secret", "roles": ["administrator"]})
    make("/admin/vhosts/", {"id": "host"})
    make("/admin/namespaces/", {"id": "lab"})
    make("/admin/schedules/", {"id": "nightly", "function": "text/upper", "every": 86400})
    known = {
        "/admin/users/": "spare",
        "/admin/vhosts/": "host",
        "/admin/schedules/": "nightly",
        "/admin/namespaces/": "lab",
        "/admin/functions/": "text/upper",
        "/admin/operations/": "1",
    }
    for prefix in ("", "/admin"):
        known[f"{prefix}/runs/"] = make("/runs/", {"function": "text/upper"})["id"]
        known[f"{prefix}/jobs/"] = make("/jobs/", {"function": "text/upper"})
    return admin, Signature(KeccakAuthenticator(Credentials("somebody", "a long secret"))), known


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: str(mode.value))
@pytest.mark.filterwarnings("ignore")
def test_no_request_makes_the_server_fail_or_answer_what_is_not_described(
    served: tuple[str, Settings], mode: GenerationMode
) -> None:
    url, loaded = served
    admin, somebody, known = furnish(url, loaded)
    names = []
    for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = result.ok()
        names.append(operation.label)
        thing = known.get(operation.path.partition("{")[0], "")
        drive(operation, mode, somebody if operation.path == "/whoami" else admin, thing)
    assert len(names) >= len(TABLE)


def drive(operation: Any, mode: GenerationMode, auth: Signature, thing: str) -> None:
    """Send a handful of requests of one operation, some of them to a thing that there is, and check every answer."""

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode), hypothesis.strategies.booleans())
    def send(case: Any, to_thing: bool) -> None:
        # Other headers are not the interface's; a wrong Content-Length never gets as far as a handler.
        case.headers = {name: text for name, text in (case.headers or {}).items() if name == "If-Match"}
        if to_thing and thing:
            case.path_parameters = {name: thing if name != "number" else "3" for name in case.path_parameters}
        if "wait" in (case.query or {}):
            case.query["wait"] = MAX_WAIT
        case.call_and_validate(auth=auth, checks=CHECKS, timeout=20)

    with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong with a request that has no parts
        send()
