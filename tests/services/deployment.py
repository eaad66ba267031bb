"""A whole DTS of real processes, started with the real commands in a folder of its own. Does not need pytest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.services.base import free_port
from tests.services.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Deployment:
    """Processes by name, all on the same back ends. `store_url` and `broker_url` None stand for the embedded ones."""

    folder: Path
    store_url: str | None = None
    broker_url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def embedded(self) -> bool:
        """Whether the back ends are the embedded ones."""
        return self.broker_url is None

    def env(self) -> dict[str, str]:
        """The environment of every process."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("DTS_")}
        for name in ("COLUMNS", "LINES"):  # those of the tests' terminal, when they run side by side
            env.pop(name, None)
        env["PATH"] = f"{Path(sys.executable).parent}:{env.get('PATH', '')}"
        env["HOME"] = str(self.folder)
        if self.store_url:
            env["DTS_STORE_URL"] = self.store_url
        if self.broker_url:
            env["DTS_BROKER_URL"] = self.broker_url
        return env | self.environment

    # processes

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process under a name, its output in `<name>.log`."""
        self._commands[name] = list(command)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with no input; its status and what it printed."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def admin(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `dts-admin` as the administrator."""
        credentials = ["--username", "admin", "--secret-file", "var/admin.secret", "--url", self.url]
        return self.run("dts-admin", *credentials, *command)

    def start_server(self, name: str = "server", port: int | None = None) -> None:
        """Start a server and wait until it is ready."""
        port = port or self.port
        self.start(name, sys.executable, "-m", "dts.server", "-c", str(ROOT / "etc/webapp.toml"), "--port", str(port))
        self.wait_ready(name, port)

    def start_worker(self, name: str = "worker", *flags: str) -> None:
        """Start a worker."""
        self.start(name, sys.executable, "-m", "dts.worker", "-c", str(ROOT / "etc/worker.toml"), *flags)

    def start_daemons(self, name: str = "daemons", *which: str) -> None:
        """Start daemons in a process of their own."""
        self.start(name, sys.executable, "-m", "dts.server.daemons", "-c", str(ROOT / "etc/daemons.toml"), *which)

    def start_all(self) -> Self:
        """Server, worker and, where the server does not run them itself, the daemons."""
        self.start_server()
        if not self.embedded:
            self.start_daemons()
        self.start_worker()
        return self

    def wait_ready(self, name: str, port: int | None = None) -> None:
        """Wait until the server answers that it is ready."""

        def ready() -> bool:
            if (code := self._processes[name].poll()) is not None:
                raise AssertionError(f"{name} ended with {code}:\n{self.log(name)}")
            url = f"http://127.0.0.1:{port or self.port}/health/ready"
            with (
                suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(url, timeout=2) as answer,
            ):
                return bool(answer.status == 200)
            return False

        wait_until(ready, f"{name} to be ready")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        self._processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL a process and wait until it is gone."""
        self._processes[name].kill()
        self._processes[name].wait()

    def restart(self, name: str) -> None:
        """Start a process again with the command that it was started with."""
        self.start(name, *self._commands[name])

    def wait(self, name: str, timeout: float = PATIENCE) -> int:
        """Wait for the end of a process; returns its exit code."""
        return self._processes[name].wait(timeout)

    def pid(self, name: str) -> int:
        """The process id."""
        return self._processes[name].pid

    def log(self, name: str) -> str:
        """What a process has written so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End every process, clients first."""
        for name in reversed(self._processes):
            process = self._processes[name]
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE / 4)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # the client

    def client_command(self, function: str, infile: Path | str, outfile: Path | str, *flags: str) -> list[str]:
        """The command line of `dts-client`, signing in as the administrator."""
        secret = str(self.folder / "var/admin.secret")
        command = ["dts-client", function, str(infile), str(outfile), self.url]
        return [*command, "--username", "admin", "--secret-file", secret, *flags]

    def attach_command(self, run: str, outfile: Path, *flags: str) -> list[str]:
        """The command line of `dts-client attach`, signing in as the administrator."""
        secret = str(self.folder / "var/admin.secret")
        return [
            "dts-client",
            "attach",
            run,
            str(outfile),
            self.url,
            "--username",
            "admin",
            "--secret-file",
            secret,
            *flags,
        ]

    def start_client(self, function: str, infile: Path, outfile: Path, *flags: str) -> subprocess.Popen[bytes]:
        """Start `dts-client` in the background."""
        return self.start("client", *self.client_command(function, infile, outfile, *flags))

    def run_client(
        self, function: str, infile: Path, outfile: Path, *flags: str, timeout: float = 2 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run `dts-client` to its end."""
        command = self.client_command(function, infile, outfile, *flags)
        return subprocess.run(
            command, cwd=self.folder, env=self.env(), capture_output=True, text=True, timeout=timeout, check=False
        )


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an output file."""
    with path.open("rb") as file:
        return [json.loads(line) for line in file]


def count_rows(path: Path) -> int:
    """How many rows an output file has so far; 0 if there is no file yet."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
