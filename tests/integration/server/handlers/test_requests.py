"""What the server refuses, and how it says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httputil import HTTPHeaders

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.config import Settings, load_settings
from dts.errors import StoreUnavailable
from dts.server.app import Server
from tests.integration.conftest import Api, Site, check_refusal
from tests.services.waiting import PATIENCE

UNSIGNED = {"/health/live", "/health/ready", "/metrics"}


async def test_an_unsigned_request_is_refused(site: Site) -> None:
    answer = await site.api().send("GET", "/jobs/", sign=False)
    check_refusal(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "DTS-KECCAK-256"


async def test_bad_signatures_are_refused_all_alike(site: Site) -> None:
    api = site.api()
    await api.call("GET", "/jobs/")
    stale = KeccakAuthenticator(api.credentials).sign(Request.to("GET", site.url + "/jobs/"), now=time.time() - 400)
    replayed = KeccakAuthenticator(api.credentials).sign(Request.to("GET", site.url + "/jobs/"))
    assert (await api.send("GET", "/jobs/", Authorization=replayed)).code == 200
    answers = [
        await Api(site.url, Credentials("admin", "wrong")).send("GET", "/jobs/"),
        await Api(site.url, Credentials("nobody", "wrong")).send("GET", "/jobs/"),
        await Api(site.url, Credentials("nobody", "wrong")).send("GET", "/jobs/", Authorization="rubbish"),
        await api.send("GET", "/jobs/", Authorization=stale),
        await api.send("GET", "/jobs/", Authorization=replayed),
        await api.send("GET", "/jobs/?x=1", Authorization=replayed),
    ]
    messages = {check_refusal(answer, 401, "unauthorized") for answer in answers}
    assert len(messages) == 1


async def test_a_captured_request_is_good_for_what_was_signed_alone(site: Site) -> None:
    api = site.api()
    signer = KeccakAuthenticator(api.credentials)
    target, body = site.url + "/jobs/", b'{"params": {"function": "text/upper", "args": ["x"]}}'
    fields = {"Content-Type": "application/json", "Idempotency-Key": "one"}

    def captured() -> str:
        return signer.sign(Request.to("POST", target, fields), body)

    for changed in ({"Idempotency_Key": "two"}, {"Content_Type": "text/plain"}, {"If_Match": '"1"'}, {"Host": "other"}):
        headers = {"Idempotency_Key": "one", "Content_Type": "application/json", "Authorization": captured(), **changed}
        check_refusal(await api.send("POST", "/jobs/", body, **headers), 401, "unauthorized")
    headers = {"Idempotency_Key": "one", "Authorization": captured()}
    check_refusal(await api.send("POST", "/jobs/", body.replace(b"x", b"y"), **headers), 401, "unauthorized")
    assert (await api.call("GET", "/jobs/"))["statistics"]["total"] == 0
    headers["Authorization"] = captured()
    assert (await api.send("POST", "/jobs/", body, **headers)).code == 201


async def test_a_captured_request_is_not_good_at_another_installation(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    flags = {
        "store": {"url": f"sqlite:///{folder}/store.db"},
        "broker": {"url": f"sqlite:///{folder}/queue.db"},
        "server": {"port": 0, "key_file": f"{folder}/key", "admin_secret_file": str(settings.server.admin_secret_file)},
    }
    folder.mkdir()
    async with Server(settings) as one, Server(load_settings(None, environment={}, flags=flags)) as other:
        secret = settings.server.admin_secret_file.read_text().strip()
        urls = [f"http://127.0.0.1:{server.port}" for server in (one, other)]
        apis = [Api(url, Credentials("admin", secret)) for url in urls]
        for api in apis:
            await api.call("GET", "/whoami")  # the same user with the same secret at both
        header = KeccakAuthenticator(apis[0].credentials).sign(Request.to("GET", urls[0] + "/whoami"))
        for host in (f"127.0.0.1:{other.port}", f"127.0.0.1:{one.port}", f"localhost:{other.port}"):
            check_refusal(await apis[1].send("GET", "/whoami", Authorization=header, Host=host), 401, "unauthorized")
        assert (await apis[0].send("GET", "/whoami", Authorization=header)).code == 200


async def test_a_server_answers_to_its_names_whatever_host_a_proxy_passes_on(settings: Settings) -> None:
    server = msgspec.structs.replace(settings.server, names=("dts.example", "[2001:db8::1]:8443"), base_path="/dts")
    async with Server(msgspec.structs.replace(settings, server=server)) as running:
        secret = settings.server.admin_secret_file.read_text().strip()
        signer = KeccakAuthenticator(Credentials("admin", secret))

        async def status(signed_for: str, host: str, path: str = "/dts/whoami") -> int:
            request = Request.to("GET", signed_for + path, base_path="/dts")
            api = Api(f"http://127.0.0.1:{running.port}", Credentials("admin", secret))
            return (await api.send("GET", path, Authorization=signer.sign(request), Host=host)).code

        assert await status("https://dts.example", "dts.example") == 200
        assert await status("https://DTS.example.:443", "dts.example") == 200
        assert await status("https://dts.example:8443", "dts.example:8443") == 200  # no port is configured: any
        assert await status("https://dts.example", "127.0.0.1:8000") == 200  # the proxy asked by its own name for it
        assert await status("https://[2001:db8::1]:8443", "[2001:DB8::1]:8443") == 200
        assert await status("https://[2001:db8::1]:9000", "[2001:db8::1]:9000") == 401
        assert await status(f"http://localhost:{running.port}", f"localhost:{running.port}") == 200
        assert await status(f"http://127.0.0.1:{running.port}", f"127.0.0.1:{running.port}") == 200
        assert await status("http://localhost:1", "localhost:1") == 401
        assert await status("https://other.example", "dts.example") == 401
        assert await status("https://other.example", "other.example") == 401
        assert await status("https://dts.example", "dts.example", "/whoami") == 404  # outside the base path


async def test_a_refusal_says_that_the_host_is_not_known(site: Site) -> None:
    signed = KeccakAuthenticator(site.api().credentials).sign(Request.to("GET", "http://dts.example/whoami"))
    answer = await site.api().send("GET", "/whoami", Authorization=signed, Host="dts.example")
    assert "'dts.example'" in check_refusal(answer, 401, "unauthorized")


async def test_a_header_that_is_signed_has_one_value(site: Site) -> None:
    headers = HTTPHeaders()
    for value in ('"1"', '"2"'):
        headers.add("If-Match", value)
    request = HTTPRequest(site.url + "/whoami", headers=headers)
    check_refusal(await AsyncHTTPClient().fetch(request, raise_error=False), 400, "argument_invalid")


@pytest.mark.parametrize("authorization", [None, "rubbish", "wrong secret", "stranger", "another body"])
async def test_a_refused_request_is_answered_before_its_body_has_come(site: Site, authorization: str | None) -> None:
    """Not a byte of the body is sent until the answer is there; then it is thrown away."""
    body = b"x" * 100_000
    if authorization == "wrong secret":
        authorization = KeccakAuthenticator(Credentials("admin", "no")).sign(
            Request.to("POST", site.url + "/jobs/"), body
        )
    elif authorization == "stranger":
        authorization = KeccakAuthenticator(Credentials("bob", "no")).sign(
            Request.to("POST", site.url + "/jobs/"), body
        )
    early = authorization != "another body"
    if not early:
        authorization = KeccakAuthenticator(site.api().credentials).sign(Request.to("POST", site.url + "/jobs/"), b"y")
    host = site.url.removeprefix("http://")
    head = f"POST /jobs/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    if authorization is not None:
        head += f"Authorization: {authorization}\r\n"
    reader, writer = await asyncio.open_connection(*host.split(":"))
    try:
        writer.write(head.encode() + b"\r\n" + (b"" if early else body))
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE)
        assert b"401 Unauthorized" in answer
        assert b"unauthorized" in answer
        if early:
            writer.write(body)
            await writer.drain()
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""  # closed, in good order
    finally:
        writer.close()


async def test_a_nonce_counts_once_however_many_send_it_at_a_time(site: Site) -> None:
    api = site.api()
    header = KeccakAuthenticator(api.credentials).sign(Request.to("GET", site.url + "/jobs/"))
    answers = await asyncio.gather(*(api.send("GET", "/jobs/", Authorization=header) for _ in range(8)))
    assert sorted(answer.code for answer in answers) == [200] + [401] * 7


async def test_what_is_not_there_is_said_to_be_so(site: Site) -> None:
    api = site.api()
    check_refusal(await api.send("GET", "/nothing", sign=False), 404, "not_found")
    check_refusal(await api.send("PUT", "/jobs/"), 405, "method_not_allowed")
    for path in (
        "/jobs/x",
        "/jobs/0-0",
        "/runs/x",
        f"/runs/{'0' * 26}",
        f"/jobs/{'0' * 26}-7",
        "/runs/%00",
        "/runs/" + "x" * 10_000,
    ):
        await api.refused("GET", path, status=404, code="not_found")
    await api.refused("GET", "/jobs/%ff", status=400, code="argument_invalid")


async def test_another_users_run_and_job_are_as_if_not_there(site: Site) -> None:
    admin, alice = site.api(), await site.add_user("alice")
    run = await admin.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    job = await admin.call("POST", "/jobs/", {"function": "text/upper", "args": ["x"]}, status=201)
    body = b'{"args": ["x"]}'
    for answer in (
        await alice.send("GET", f"/runs/{run['id']}"),
        await alice.send("DELETE", f"/runs/{run['id']}"),
        await alice.send("PUT", f"/runs/{run['id']}/blocks/0", body),
        await alice.send("GET", f"/runs/{run['id']}/results"),
        await alice.send("POST", f"/runs/{run['id']}/collected", b'{"params": {"receipts": []}}'),
        await alice.send("GET", f"/jobs/{job}"),
        await alice.send("DELETE", f"/jobs/{job}"),
    ):
        check_refusal(answer, 404, "not_found")
    assert (await alice.call("GET", "/jobs/"))["statistics"]["total"] == 0
    assert await alice.call("GET", "/runs/") == []


@pytest.mark.parametrize("path", ["/jobs/", "/runs/"])
async def test_functions_are_named_properly_and_registered(site: Site, path: str) -> None:
    api = site.api()
    for name in ("../x", "os.path", "text", "text/upper/x", "Text/upper", "text/upper\n", "", "text/__init__"):
        await api.refused("POST", path, {"function": name}, status=400, code="name_invalid")
    message = await api.refused("POST", path, {"function": "no/such"}, status=404, code="function_not_found")
    assert "no/such" in message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json_invalid"),
        (b"{", "json_invalid"),
        (b"[]", "argument_invalid"),
        (b"{}", "argument_missing"),
        (b'{"params": {}}', "argument_missing"),
        (b'{"params": []}', "argument_invalid"),
        (b'{"params": {"function": 7}}', "argument_invalid"),
        (b'{"params": {"function": "text/upper", "arks": []}}', "argument_invalid"),
        (b'{"params": {"function": "text/upper", "args": {}}}', "argument_invalid"),
        (b'{"params": {"function": "text/upper", "kwargs": []}}', "argument_invalid"),
        (b'{"params": {"function": "text/upper", "args": [NaN]}}', "json_invalid"),
        (b'{"params": {"function": "text/upper", "args": [1e999]}}', "argument_invalid"),
        (b'{"params": {"function": "text/upper", "args": ["\xff"]}}', "argument_invalid"),
        (b'{"params": {"function": "text/upper", "args": ' + b"[" * 80_000 + b"]" * 80_000 + b"}}", "json_invalid"),
    ],
)
async def test_bad_bodies_are_refused(site: Site, body: bytes, code: str) -> None:
    check_refusal(await site.api().send("POST", "/jobs/", body), 400, code)
    assert (await site.api().call("GET", "/jobs/"))["statistics"]["total"] == 0


@pytest.mark.parametrize("size", [200_001, 3_000_000, 20_000_000])
async def test_a_body_over_the_limit_is_refused(site: Site, size: int) -> None:
    answer = await site.api().send("POST", "/jobs/", b"x" * size)
    message = check_refusal(answer, 413, "too_large")
    assert "200000" in message


async def test_bad_queries_are_refused(site: Site) -> None:
    api = site.api()
    run = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    for query in ("max=x", "wait=-1", "wait=nan"):
        await api.refused("GET", f"/runs/{run['id']}/results?{query}", status=400, code="argument_invalid")


async def test_arguments_of_a_query_are_known_and_come_once(site: Site) -> None:
    api = site.api()
    run = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    for path in (
        "/jobs/?wait=1",
        "/whoami?x=1",
        "/admin/diagnosis?x=1",
        "/admin/users/admin?limit=1",
        "/admin/operations/verify?accept=true",
        f"/runs/{run['id']}?wait=1",
        "/admin/users/?limit=1&limit=2",
        "/admin/users/?roles=user&roles=developer",
        "/runs/?all=true&all=true",
        f"/runs/{run['id']}/results?max=1&max=2",
        "/runs/?colour=",
    ):
        message = await api.refused("GET", path, status=400, code="argument_invalid")
        assert "in the query: " in message, path
    message = await api.refused("POST", "/runs/?x=1", {"function": "text/upper"}, status=400, code="argument_invalid")
    assert message == "in the query: there is no argument 'x' here, only none at all"
    message = await api.refused("GET", "/admin/users/?limit=x", status=400, code="argument_invalid")
    assert message == "in the query: limit must be a whole number"


async def test_a_method_that_is_not_there_is_answered_with_those_that_are(site: Site) -> None:
    for path, allowed in (("/jobs/", "GET, POST, DELETE"), ("/health/live", "GET"), ("/admin/logs/", "GET")):
        answer = await site.api().send("PUT", path)
        check_refusal(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allowed


async def test_what_is_behind_the_server_is_for_its_log_only(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("MongoDB does not answer: db1.internal:27017: [Errno 111] <TopologyDescription>")

    api = site.api()
    await api.call("GET", "/jobs/")
    for name in ("ping", "retrievables", "use_nonce"):
        monkeypatch.setattr(type(site.store), name, away)
    answers = [await api.send("GET", "/jobs/") for _ in range(3)]
    message = check_refusal(answers[0], 503, "store_unavailable")
    assert message == "the store does not answer: try again in a moment"
    assert answers[0].headers["Retry-After"]
    health = await api.send("GET", "/health/ready", sign=False)
    assert health.code == 503
    assert health.body == b'{"result":{"status":"unavailable","store":"unavailable","broker":"ok"}}'
    assert caplog.text.count("db1.internal:27017") == 1, "in the log, and not for every request"


async def test_health_needs_no_signature(site: Site) -> None:
    for path in UNSIGNED:
        assert (await site.api().send("GET", path, sign=False)).code == 200
