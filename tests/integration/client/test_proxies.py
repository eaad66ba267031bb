"""Requests through a proxy that the environment names."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dts.auth import Credentials
from dts.client.proxies import is_excepted, parse_proxy, proxy_for
from dts.client.transport import Transport
from dts.errors import ConfigError, RequestRefused, ServerUnavailable
from tests.integration.client.test_run import FakeServer, make_client, run_lines, server
from tests.integration.client.test_transport import Site, self_signed
from tests.services.proxy import HttpProxy

__all__ = ["server"]  # a fixture

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_a_run_over_http_goes_through_the_proxy(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy(server.port, authorization="Basic YWxpY2U6cEBzcw==").serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://alice:p%40ss@127.0.0.1:{proxy.port}")
        async with make_client("http://dts.example:8000") as client:
            assert len(await run_lines(client, tmp_path, "a\n" * 300)) == 300
    assert proxy.seen[0] == "POST http://dts.example:8000/runs/ HTTP/1.1"
    assert any(line.startswith("GET http://dts.example:8000/runs/") and "?max=" in line for line in proxy.seen)


async def test_a_request_over_https_goes_through_a_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    http = site.serve(self_signed(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    monkeypatch.setattr("dts.client.proxies.is_local", lambda origin: False)
    async with HttpProxy(site.port).serve() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
        transport = Transport("https://127.0.0.1:4430", Credentials("alice", "secret"))
        assert await transport.call("POST", "/runs/", {"function": "a/b"}) == "done"
        transport.close()
    assert proxy.seen == ["CONNECT 127.0.0.1:4430 HTTP/1.1"]
    http.stop()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_the_proxy_refuses_is_not_tried_again(
    scheme: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy(server.port, authorization="Basic x").serve() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with make_client(f"{scheme}://dts.example") as client:
            with pytest.raises(
                RequestRefused, match=rf"proxy 127.0.0.1:{proxy.port} refused with HTTP 407 .*give user"
            ):
                await client.submit("text/upper", "x")
    assert len(proxy.seen) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 No\r\n\r\n", "refused with HTTP 503 No"),
        (b"220 mail\r\n\r\n", "does not answer as a proxy does"),
    ],
)
async def test_a_proxy_that_cannot_is_waited_for(
    answer: bytes, reason: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy(server.port).serve() as proxy:
        proxy.refuses = answer
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        async with make_client("https://dts.example", give_up_after=2.0) as client:
            with pytest.raises(ServerUnavailable, match=f"the proxy 127.0.0.1:{proxy.port} {reason}"):
                await client.submit("text/upper", "x")
    assert len(proxy.seen) >= 2


async def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    async with make_client("http://dts.example", give_up_after=0.01) as client:
        with pytest.raises(ServerUnavailable, match=f"the proxy 127.0.0.1:{port} is not reachable: .*refused"):
            await client.submit("text/upper", "x")


@pytest.mark.parametrize(
    ("host", "port", "exceptions", "excepted"),
    [
        ("dts.example", 80, "", False),
        ("dts.example", 80, "*", True),
        ("dts.example", 80, "other, DTS.example", True),
        ("dts.example", 80, ".example", True),
        ("dts.example", 80, "*.example", True),
        ("dts.example", 80, "s.example", False),
        ("dts.example", 80, "dts.example:8080", False),
        ("dts.example", 8080, "dts.example:8080", True),
        ("10.1.2.3", 80, "10.0.0.0/8", True),
        ("11.1.2.3", 80, "10.0.0.0/8", False),
        ("fd00::1", 80, "fd00::/8", True),
    ],
)
def test_exceptions_are_names_domains_and_networks(host: str, port: int, exceptions: str, excepted: bool) -> None:
    assert is_excepted(host, port, exceptions) is excepted


def test_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    assert proxy_for("http://127.0.0.1:8000") is None
    assert proxy_for("http://dts.example") == parse_proxy("proxy:1")
    assert proxy_for("https://dts.example") is None
    monkeypatch.setenv("NO_PROXY", "example")
    assert proxy_for("http://dts.example") is None


@pytest.mark.parametrize("url", ["socks5://a:1", "https://a:1", "http://", "http://a:port"])
def test_what_is_no_proxy_to_use_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="is no proxy to use: write http://host:port"):
        parse_proxy(url)
