"""Signed HTTP: what is sent, what is tried again, what is said."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import gc
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from dts.auth import Credentials, KeccakAuthenticator, Request, body_digest, derive_key
from dts.client.answers import parse_retry_after
from dts.client.transport import Transport
from dts.errors import AuthError, ConfigError, RequestRefused, ServerUnavailable

ALICE = Credentials("alice", "secret")

Respond = Callable[[RequestHandler], Awaitable[None] | None]


class Site:
    """A server whose answers a test decides; keeps the URIs that were asked for, with a valid signature."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ahead = 0.0  # seconds of its clock
        self.base_path = ""
        self.respond: Respond = lambda handler: handler.write({"result": "done"})
        site = self

        class Anything(RequestHandler):
            async def prepare(self) -> None:
                request = self.request
                path = request.path.removeprefix(site.base_path)
                signed = Request(request.method or "", request.host, path, request.query, request.headers)
                now = time.time() + site.ahead
                try:
                    claim = KeccakAuthenticator.parse(request.headers["Authorization"], now=now)
                except AuthError:
                    self.set_status(401)
                    self.set_header("Date", email.utils.formatdate(round(now), usegmt=True))
                    self.finish()
                    return
                assert KeccakAuthenticator.verify(claim, derive_key("alice", "secret"), signed)
                assert claim.digest == body_digest(request.body)
                site.asked.append(f"{request.method} {request.uri}")
                if (answering := site.respond(self)) is not None:
                    await answering
                if not self._finished:
                    self.finish()

        self.app = Application([(".*", Anything)], log_function=lambda _: None)
        self.sock, self.port = bind_unused_port(address="127.0.0.1")

    def serve(self, ssl_options: ssl.SSLContext | None = None) -> HTTPServer:
        http = HTTPServer(self.app, ssl_options=ssl_options)
        http.add_socket(self.sock)
        return http


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    http = site.serve()
    yield site
    http.stop()
    await http.close_all_connections()


def refuse(status: int, body: str = "", **headers: str) -> Respond:
    def respond(handler: RequestHandler) -> None:
        handler.set_status(status)
        for name, value in headers.items():
            handler.set_header(name, value)
        handler.finish(body)

    return respond


def take(seconds: float) -> Respond:
    """Answer a request for `/` after so long, others at once."""

    async def respond(handler: RequestHandler) -> None:
        if handler.request.path == "/":
            await asyncio.sleep(seconds)
        handler.write({"result": "done"})

    return respond


@pytest.mark.parametrize("prefix", ["", "/", "/dts", "/dts/", "/a%20b"])
async def test_a_url_may_have_a_path_and_a_slash(prefix: str, site: Site) -> None:
    site.base_path = prefix.rstrip("/")
    transport = Transport(f"http://127.0.0.1:{site.port}{prefix}", ALICE)
    assert await transport.call("GET", "/jobs/ü?/", query={"a b": "1&2", "n": 3}) == "done"
    assert site.asked == [f"GET {prefix.rstrip('/')}/jobs/%C3%BC%3F/?a+b=1%262&n=3"]
    transport.close()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://..",
        "http://a host",
        "http://host:0",
        "http://host:99999",
        "http://u:p@host",
        "http://host/?q",
        "",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of a server"):
        Transport(url, ALICE)


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (refuse(404, '{"error": {"code": "not_found", "message": "there is no run"}}'), "^there is no run$"),
        (refuse(404, "<html>nginx</html>"), "^HTTP 404 Not Found$"),
        (refuse(302, Location="https://elsewhere"), "redirects to https://elsewhere: give that URL"),
        (refuse(200, "<html>hello</html>"), "is it a DTS server"),
        (
            refuse(401, '{"error": {"code": "unauthorized", "message": "No."}}'),
            "No. User alice: check name",
        ),
    ],
)
async def test_a_refusal_says_what_to_do(respond: Respond, reason: str, site: Site) -> None:
    site.respond = respond
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE)
    with pytest.raises(RequestRefused, match=reason):
        await transport.call("GET", "/")
    assert len(site.asked) == 1
    transport.close()


@pytest.mark.parametrize("ahead", [3600.0, -86400.0])
async def test_a_wrong_clock_is_corrected_by_the_servers(site: Site, ahead: float) -> None:
    site.ahead = ahead
    said: list[str] = []
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, notify=said.append)
    assert await transport.call("POST", "/", {}, repeatable=False) == "done"
    assert await transport.call("GET", "/") == "done"
    assert said == [f"this machine's clock differs from the server's by {abs(ahead):.0f} s: signing by the server's"]
    transport.close()


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path: Path) -> None:
    site = Site()
    http = site.serve(self_signed(tmp_path))
    transport = Transport(f"https://127.0.0.1:{site.port}", ALICE)
    with pytest.raises(RequestRefused, match="is not trusted: self-signed certificate"):
        await transport.call("GET", "/")
    transport.close()
    http.stop()


async def test_https_with_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    http = site.serve(self_signed(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    transport = Transport(f"https://127.0.0.1:{site.port}", ALICE)
    assert await transport.call("POST", "/runs/", {"function": "a/b"}) == "done"
    transport.close()
    http.stop()


@pytest.mark.parametrize("wait", [0.0, 0.1])
async def test_a_server_that_is_frozen_is_told_of_and_given_up(wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.05)
    monkeypatch.setattr("dts.client.transport._SHORTEST_TRY", 0.05)
    sock, port = bind_unused_port(address="127.0.0.1")  # takes connections, and nobody ever reads
    said: list[str] = []
    transport = Transport(f"http://127.0.0.1:{port}", ALICE, give_up_after=0.2, notify=said.append)
    began = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"does not answer .* gave up after 0.2 s"):
        await transport.call("GET", "/", wait=wait)
    assert time.monotonic() - began - wait >= 0.2
    assert said == [f"server http://127.0.0.1:{port} has not answered for 0.05 s; waiting"]
    transport.close()
    sock.close()


async def test_a_server_that_is_slow_again_and_again_is_told_of_once_a_minute(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.05)
    said: list[str] = []
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, notify=said.append)
    site.respond = take(0.15)
    for _ in range(3):
        await transport.call("GET", "/")
    assert said == [f"server http://127.0.0.1:{site.port} has not answered for 0.05 s; waiting", "server is back"]
    monkeypatch.setattr("dts.client.notices._REMINDER", 0.3)
    site.respond = take(0.6)
    await transport.call("GET", "/")  # the minute is over within this request
    assert len(said) == 4
    transport.close()


async def test_one_request_that_is_slow_while_others_are_answered_is_not_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.2)
    said: list[str] = []
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, notify=said.append)

    async def others() -> None:
        for _ in range(8):
            await transport.call("GET", "/other")
            await asyncio.sleep(0.05)

    site.respond = take(0.4)
    await asyncio.gather(transport.call("GET", "/"), others())
    assert said == []
    transport.close()


# what is no DTS server


@pytest.mark.parametrize("status", [501, 505])
async def test_what_can_never_do_it_is_no_dts_server(status: int, site: Site) -> None:
    site.respond = refuse(status)
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE)
    with pytest.raises(RequestRefused, match=f"answered with HTTP {status} .*: is it a DTS server"):
        await transport.call("POST", "/runs/", {})
    assert len(site.asked) == 1
    transport.close()


async def test_https_to_a_server_of_http_says_what_may_be_wrong(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tornado waits for the end of a request's headers, as it takes the client's hello for."""
    monkeypatch.setattr("dts.client.transport._SHORTEST_TRY", 0.2)
    transport = Transport(f"https://127.0.0.1:{site.port}", ALICE, give_up_after=0.2, notify=lambda _: None)
    with pytest.raises(ServerUnavailable, match="does not speak TLS: should its URL begin with http://"):
        await transport.call("GET", "/")
    transport.close()


async def test_https_to_a_server_that_answers_in_http_says_so_too() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    said: list[str] = []
    http = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{http.sockets[0].getsockname()[1]}"
    transport = Transport(url, ALICE, give_up_after=0.3, notify=said.append)
    with pytest.raises(ServerUnavailable, match="does not speak TLS"):
        await transport.call("GET", "/")
    assert said == [
        f"server {url} is not reachable (it takes connections, but does not speak TLS: should its URL begin with "
        "http://?); waiting"
    ]
    transport.close()
    http.close()


async def test_why_a_server_was_silent_is_told_when_it_is_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.05)
    monkeypatch.setattr("dts.client.transport.CONNECT_TIMEOUT", 0.15)
    said: list[str] = []
    transport = Transport(f"https://127.0.0.1:{site.port}", ALICE, give_up_after=0.4, notify=said.append)
    with pytest.raises(ServerUnavailable):
        await transport.call("GET", "/")
    assert [sentence.partition(" (")[0].rpartition(f"{site.port} ")[2] for sentence in said] == [
        "has not answered for 0.05 s; waiting",
        "is not reachable",
    ]
    transport.close()


# limits


LIMIT = "over the limit of user alice: unfinished (0)"


def over_limit(handler: RequestHandler, retry_after: str) -> None:
    handler.set_status(429)
    handler.set_header("Retry-After", retry_after)
    handler.write({"error": {"code": "limit_exceeded", "message": f"{LIMIT}: try again in {retry_after} s"}})


async def test_a_limit_that_holds_requests_up_is_told_once_and_then_each_minute(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []
    said: list[str] = []

    def respond(handler: RequestHandler) -> None:
        held.append(transport.held_by)
        if len(held) < 6:
            over_limit(handler, "0")
        else:
            handler.write({"result": "done"})

    site.respond = respond
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, notify=said.append)
    assert await transport.call("GET", "/") == "done"
    assert said == [f"{LIMIT}; waiting"]
    assert held == ["", *[LIMIT] * 5]
    assert transport.held_by == ""
    monkeypatch.setattr("dts.client.notices._REMINDER", 0.0)
    held.clear()
    await transport.call("GET", "/")
    assert len(said) == 6
    transport.close()


@pytest.mark.parametrize(
    ("said", "understood"),
    [("3", 3.0), ("86400", 60.0), ("inf", 60.0), ("-1", 0.1), ("nan", None), ("Fri, 31 Dec 1999 23:59:59 GMT", None)],
)
def test_nobody_waits_for_longer_than_a_minute_before_another_try(said: str, understood: float | None) -> None:
    assert parse_retry_after(said) == understood


async def test_a_limit_that_holds_for_longer_than_one_may_wait_is_refused_at_once(site: Site) -> None:
    site.respond = lambda handler: over_limit(handler, "30")
    said: list[str] = []
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, give_up_after=10.0, notify=said.append)
    with pytest.raises(RequestRefused) as refused:
        await transport.call("POST", "/", {}, repeatable=False)
    assert refused.value.message == f"{LIMIT}: try again in 30 s"
    assert (refused.value.status, refused.value.code) == (429, "limit_exceeded")
    assert said == []
    transport.close()


async def test_who_gives_up_has_waited_for_as_long_as_he_says(site: Site) -> None:
    def respond(handler: RequestHandler) -> None:
        handler.set_status(503)
        handler.set_header("Retry-After", "60")

    site.respond = respond
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, give_up_after=0.2, notify=lambda _: None)
    began = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"is not ready \(503 .*; gave up after 0.2 s"):
        await transport.call("GET", "/")
    assert time.monotonic() - began >= 0.2
    transport.close()


async def test_a_server_that_was_asked_to_wait_is_not_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.2)
    monkeypatch.setattr("dts.client.transport._SHORTEST_TRY", 0.2)
    site.respond = lambda handler: (time.sleep(0.3), handler.write({"result": "late"}))[1]
    said: list[str] = []
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE, give_up_after=0.0, notify=said.append)
    assert await transport.call("GET", "/", wait=0.4) == "late"
    assert said == []
    transport.close()


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS with a fresh certificate for 127.0.0.1, in `certificate.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dts test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


async def test_a_request_that_is_cancelled_leaves_nothing_behind(site: Site) -> None:
    """As when the reader of the rows has gone: asyncio would complain on stderr of a task that is dropped."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: said.append(about["message"]))

    async def hold(_: RequestHandler) -> None:
        reached.set()
        await go_on.wait()

    site.respond = hold
    transport = Transport(f"http://127.0.0.1:{site.port}", ALICE)
    calling = asyncio.create_task(transport.call("GET", "/jobs/"))
    await reached.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    assert not [task for task in asyncio.all_tasks() if "Transport" in repr(task) or "Event.wait" in repr(task)]
    del calling
    gc.collect()
    assert said == []
    go_on.set()
    transport.close()
