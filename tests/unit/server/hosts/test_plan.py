"""What a host is to have."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from dts.config import load_settings
from dts.errors import HostError, InvalidInput
from dts.model import VirtualHost
from dts.server.hosts.plan import (
    Folders,
    InstallOptions,
    read_options,
    split_credentials,
    systemd_unit,
    worker_toml,
)
from dts.server.ssh.credentials import without_credentials

AMQP = "amqp://dts:a%22b@mq.example/dts"


def settings(**sections: Any) -> Any:
    return load_settings(None, environment={}, flags=sections)


def test_the_workers_settings_are_what_the_record_says() -> None:
    host = VirtualHost("w1", address="w1.example", routes=("gpu", "x"), functions_dir='/srv/"f"\\ü 😀')
    route = [{"name": "far", "url": "amqp://far.example/dts"}]
    read = tomllib.loads(worker_toml(host, settings(broker={"url": AMQP, "route": route})))
    assert read["broker"] == {"url": AMQP, "route": route}
    assert read["worker"] == {"name": "w1", "functions": host.functions_dir, "routes": ["gpu", "x"]}
    assert read["fleet"] == {"key_file": "var/fleet.key"}
    assert tomllib.loads(worker_toml(VirtualHost("w2"), settings(broker={"url": AMQP})))["worker"]["routes"] == [
        "default"
    ]


def test_hosts_get_the_url_that_they_can_use() -> None:
    made = settings(
        broker={"url": "amqp://localhost/"}, fleet={"broker_url": AMQP, "server_url": "https://dts.example"}
    )
    read = tomllib.loads(worker_toml(VirtualHost("w1"), made))
    assert read["broker"]["url"] == AMQP
    assert read["worker"]["server_url"] == "https://dts.example"


@pytest.mark.parametrize(
    "url", ["sqlite:///var/queue.db", "amqp://localhost/", "amqp://u:p@127.0.0.1:5672/", "amqp://a.example,[::1]:5672/"]
)
def test_queues_on_the_servers_own_machine_are_refused(url: str) -> None:
    with pytest.raises(HostError, match=r"\[fleet\] broker_url"):
        worker_toml(VirtualHost("w1", address="10.0.0.1"), settings(broker={"url": url}))
    assert worker_toml(VirtualHost("w1", address="127.0.0.1"), settings(broker={"url": url}))


def test_what_toml_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInput):
        worker_toml(VirtualHost("w1", functions_dir="/srv/\x7f"), settings(broker={"url": AMQP}))


def test_options_hold_until_something_else_is_said() -> None:
    kept = InstallOptions(python="/opt/python", pip_args=("--pre",), service="process")
    assert InstallOptions().over(kept) == kept
    assert InstallOptions(index_url="https://x/").over(kept) == InstallOptions(
        python="/opt/python", pip_args=("--pre",), service="process", index_url="https://x/"
    )
    for text in (None, b"", b"{", b'{"unknown": 1}'):
        assert read_options(text) == InstallOptions()


def test_a_unit_of_systemd() -> None:
    host = VirtualHost("w1")
    unit = systemd_unit(Folders("/home/a b%c/dts"), "dts", host)
    assert "WorkingDirectory=/home/a b%%c/dts\n" in unit
    assert 'ExecStart="/home/a b%%c/dts/current/bin/python" -m dts.worker -c etc/worker.toml\n' in unit
    for home in ('/home/"', "/home/\\", "/home/\nExecStart=x"):
        with pytest.raises(HostError):
            systemd_unit(Folders(home), "dts", host)


def test_pip_gets_credentials_in_a_file_alone() -> None:
    secret = "https://me:p%40ss@pypi.example/simple"
    words = [
        "--index-url",
        secret,
        "--pre",
        f"--extra-index-url={secret}",
        "-f",
        "https://open.example",
        f"x @ {secret}",
    ]
    seen, file = split_credentials(words)
    assert seen == ["--pre", "-f", "https://open.example"]
    assert file.splitlines() == [f"--index-url {secret}", f"--extra-index-url={secret}", f"x @ {secret}"]
    assert split_credentials(["--index-url", "https://pypi.example/a@b", "--pre"]) == (
        ["--index-url", "https://pypi.example/a@b", "--pre"],
        "",
    )


@pytest.mark.parametrize("words", [["--proxy", "http://me:pw@p"], ["--proxy=http://me:pw@p"], ["-ihttps://me:pw@p"]])
def test_credentials_that_everybody_would_see_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"pip\.conf") as caught:
        split_credentials(words)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("get https://me:p@ss@h/x and http://t0ken@h", "get https://***@h/x and http://***@h"),
        ("https://pypi.example/a@b?x=c@d", "https://pypi.example/a@b?x=c@d"),
        ("mail me@example", "mail me@example"),
    ],
)
def test_urls_are_shown_without_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
