"""A version is pushed to hosts while the server is killed again and again, and a worker there runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dts.server.ssh import HostKey
from tests.services.deployment import Deployment, rows, wait_until
from tests.services.sshd import SshServer, available

SOURCE = """\
from . import words


def main(line):
    return [words.NUMBER, {}]


def self_test():
    assert main("")
"""


@pytest.fixture
def host() -> Iterator[SshServer]:
    """A host of the fleet with a DTS."""
    if not available():
        pytest.skip("no openssh-server on this machine")
    with SshServer() as server:
        python = server.home / "dts/current/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        yield server


def add(deployment: Deployment, host: SshServer) -> None:
    (deployment.folder / "key").write_text(host.private_key)
    done = deployment.admin(
        *("vhosts", "add", "w1", "address=127.0.0.1", f"port={host.port}", f"ssh_user={host.user}"),
        *("ssh_pem_cert=@key", "--accept-fingerprint", HostKey(host.host_key).fingerprint),
    )
    assert done.returncode == 0, done.stderr


def begin(deployment: Deployment, number: int) -> subprocess.Popen[bytes]:
    """Deploy a version of which each file has the number."""
    folder = deployment.folder / "stats"
    folder.mkdir(exist_ok=True)
    (folder / "stats.py").write_text(SOURCE.format(number))
    (folder / "words.py").write_text(f"NUMBER = {number}\n")
    credentials = ("--username", "admin", "--secret-file", "var/admin.secret", "--url", deployment.url)
    return deployment.start(
        "deploy", "dts-admin", *credentials, "functions", "deploy", "text/stats", "stats", "--to", "all"
    )


def is_whole(version: Path) -> bool:
    """Whether all files of a version are of the same one."""
    place = version / "functions/text"
    number = (place / "words.py").read_text().split()[-1]
    return (place / "stats.py").read_text() == SOURCE.format(number)


def whole_versions(host: SshServer) -> list[Path]:
    found = [path for path in (host.home / "dts/var/versions").glob("*") if len(path.name) == 64]
    assert all(map(is_whole, found))
    return found


def test_no_version_is_mixed_or_lost_when_the_server_is_killed_at_it(embedded: Deployment, host: SshServer) -> None:
    embedded.start_server()
    add(embedded, host)
    versions = host.home / "dts/var/versions"
    moments: list[tuple[str, Callable[[], bool]]] = [
        ("the version to be written", lambda: any(versions.glob(".*.tmp/functions"))),
        ("the version to be there", lambda: len(whole_versions(host)) == 2),
    ]
    for number, (what, come) in enumerate(moments, 1):
        begin(embedded, number)
        wait_until(come, what)
        embedded.kill("server")
        embedded.kill("deploy")
        embedded.restart("server")
        wait_until(lambda count=number: len(whole_versions(host)) == count, "the version to be there")  # type: ignore[misc]
        wait_until(lambda n=number: state(embedded) == ["active", "done", n], "it to be noted")  # type: ignore[misc]
    embedded.environment["DTS_WORKER_VERSIONS"] = str(versions)
    embedded.start_worker()
    (embedded.folder / "in.txt").write_text("a\n")
    done = embedded.run_client("text/stats", embedded.folder / "in.txt", embedded.folder / "out", "--fields", "version")
    assert done.returncode == 0, done.stderr
    [row] = rows(embedded.folder / "out")
    assert row["result"] == [2, 2]
    assert row["version"] in {path.name[:12] for path in whole_versions(host)}
    embedded.signal("server", signal.SIGTERM)


def state(deployment: Deployment) -> list[object]:
    """The state of the rollout, of its host, and how many versions were deployed."""
    shown = deployment.admin("--json", "functions", "versions", "text/stats")
    hosts = deployment.admin("--json", "functions", "hosts", "text/stats")
    if shown.returncode or hosts.returncode:
        return []
    versions = [json.loads(line) for line in shown.stdout.splitlines()]
    [on_host] = [json.loads(line) for line in hosts.stdout.splitlines()]
    is_latest = on_host["version"] == versions[0]["version"]
    return ["active" if versions[0]["active"] and is_latest else "", on_host["state"], len(versions)]
