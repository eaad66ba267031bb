"""What the server refuses, and how it says so."""

from __future__ import annotations

import asyncio
import time

import pytest

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.errors import StoreUnavailable
from tests.integration.conftest import Api, Site, check_refusal

UNSIGNED = {"/health/live", "/health/ready", "/metrics"}


async def test_an_unsigned_request_is_refused(site: Site) -> None:
    answer = await site.api().send("GET", "/jobs/", sign=False)
    check_refusal(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "DTS-KECCAK-256"


async def test_bad_signatures_are_refused_all_alike(site: Site) -> None:
    api = site.api()
    await api.call("GET", "/jobs/")
    stale = KeccakAuthenticator(api.credentials).sign(Request("GET", "/jobs/", "", b""), now=time.time() - 400)
    replayed = KeccakAuthenticator(api.credentials).sign(Request("GET", "/jobs/", "", b""))
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


async def test_a_nonce_counts_once_however_many_send_it_at_a_time(site: Site) -> None:
    api = site.api()
    header = KeccakAuthenticator(api.credentials).sign(Request("GET", "/jobs/", "", b""))
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
