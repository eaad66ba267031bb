"""A private RabbitMQ for tests and benchmarks: a real server on free ports of 127.0.0.1, in a temporary folder.

A guard process kills the server and removes the folder when the process that started them ends in whatever way, so
that nothing is left behind by a test run that is interrupted, even by SIGKILL. This module needs no test framework.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import quote

from tests.services.base import Managed, free_port, freeze
from tests.services.waiting import PATIENCE

RABBITMQ_BIN = Path("/usr/lib/rabbitmq/bin")
"""Where Debian keeps the server's own scripts; those in /usr/sbin change user to `rabbitmq` first."""

START_TIMEOUT = PATIENCE
"""Seconds until a server must accept AMQP; it takes about four on an idle machine."""

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.file.level = info
log.console = false
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 2GB
"""


CLUSTER_CONFIG = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {node}
cluster_formation.randomized_startup_delay_range.min = 0
cluster_formation.randomized_startup_delay_range.max = 0
"""


class RabbitError(RuntimeError):
    """The server did not come up, or a control command failed."""


def available() -> bool:
    """Whether this machine has a RabbitMQ server that can be started."""
    return (RABBITMQ_BIN / "rabbitmq-server").exists()


GUARD = """\
while read -r pid; do pids="$pids $pid"; done
for pid in $pids; do kill -9 "-$pid" 2>/dev/null; done
rm -rf -- "$1"
"""
"""Reads process groups until its input ends, as it does with the process at the other end; then kills them."""


class RabbitServer(Managed):
    """A RabbitMQ of one's own. `start`, then `kill` and `start` again on the same data, then `stop`.

    `cluster` is the first node of the cluster that it joins when it starts; that one runs by then, and is stopped last.
    """

    def __init__(self, cluster: RabbitServer | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dts-rabbit-"))
        self.port = free_port()
        self._dist_port = free_port()
        self._cluster = cluster
        self._epmd_port = free_port() if cluster is None else cluster._epmd_port
        self._cookie = "dts"
        self._node = f"dts-{uuid.uuid4().hex[:12]}@localhost"
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        joins = "" if cluster is None else CLUSTER_CONFIG.format(node=cluster._node)
        (self.folder / "rabbitmq.conf").write_text(CONFIG.format(port=self.port) + joins)
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / "home" / ".erlang.cookie"
        cookie.parent.mkdir()
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    @property
    def url(self) -> str:
        """The URL for `dts.broker.open_broker`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id, to send signals to."""
        if self._server is None:
            raise RabbitError("RabbitMQ was not started")
        return self._server.pid

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start, on the data of last time if any, and return when AMQP is accepted.

        Raises:
            RabbitError: it did not come up in `timeout` seconds; the message ends with its log.
        """
        self.spawn()
        self.wait_ready(timeout)

    def spawn(self) -> None:
        """Start, and return at once."""
        if self.running:
            return
        if not available():
            raise RabbitError(f"no RabbitMQ in {RABBITMQ_BIN}: apt-get install rabbitmq-server")
        if self._cluster is None and (self._epmd is None or self._epmd.poll() is not None):
            # Our own, as a child: the one that Erlang would start by itself becomes a daemon and stays.
            self._epmd = self._popen(["epmd", "-port", str(self._epmd_port)], "epmd.out")
            self._wait_port(self._epmd_port, time.monotonic() + PATIENCE)
        self._server = self._popen([str(RABBITMQ_BIN / "rabbitmq-server")], "server.out")

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return when AMQP is accepted.

        Raises:
            RabbitError: it is not, in `timeout` seconds; the message ends with the server's log.
        """
        deadline = time.monotonic() + timeout
        while not self._accepts_amqp():
            if not self.running:
                raise RabbitError(f"RabbitMQ ended while it started\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise RabbitError(f"RabbitMQ did not accept AMQP within {timeout:.0f} s\n{self._log_tail()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it. Its data stay for the next start."""
        if self._server is not None:
            _kill_group(self._server)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        freeze(self.pid)

    def thaw(self) -> None:
        """SIGCONT, after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End everything and remove the folder. May be called twice."""
        for process in (self._guard, self._server, self._epmd):
            if process is not None:
                _kill_group(process)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def evaluate(self, erlang: str) -> str:
        """Run an Erlang expression in the server, such as `rabbit_alarm:get_alarms().`, and return its value.

        Takes milliseconds, where `control` starts a virtual machine that takes seconds.

        Raises:
            RabbitError: it failed.
        """
        command = ["erl_call", "-c", self._cookie, "-address", f"127.0.0.1:{self._dist_port}", "-e"]
        done = self._run(command, erlang + "\n")
        if not done.stdout.startswith("{ok,"):
            raise RabbitError(f"{erlang}: {done.stdout}{done.stderr}")
        return done.stdout.removeprefix("{ok,").removesuffix("}").strip()

    def add_vhost(self, name: str) -> str:
        """Make a virtual host: queues, and events, of its own. Returns its URL for the user guest."""
        self.evaluate(f"ok = rabbit_vhost:add({_binary(name)}, {_binary('tests')}).")
        self.permit("guest", name)
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote(name, safe='')}"

    def add_user(self, name: str, password: str) -> None:
        """Make a user, who may do nothing yet."""
        who = ", ".join(_binary(text) for text in (name, password, "tests"))
        self.evaluate(f"ok = rabbit_auth_backend_internal:add_user({who}).")

    def permit(self, user: str, vhost: str, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Set what a user may do in a virtual host, by patterns of names."""
        what = ", ".join(_binary(text) for text in (user, vhost, configure, write, read, "tests"))
        self.evaluate(f"ok = rabbit_auth_backend_internal:set_permissions({what}).")

    def set_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm: while it is on, the server reads nothing from connections that publish."""
        resource = "{resource_limit, memory, node()}"
        call = f"set_alarm({{{resource}, []}})" if on else f"clear_alarm({resource})"
        self.evaluate(f"rabbit_alarm:{call}.")

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on this server and return what it prints.

        Raises:
            RabbitError: the command failed.
        """
        command = [str(RABBITMQ_BIN / "rabbitmqctl"), "-n", self._node, "-q", *arguments]
        done = self._run(command)
        if done.returncode != 0:
            raise RabbitError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=text,
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": f"{folder}/home",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            # With these two the start script becomes the server, instead of staying in between as its parent.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _popen(self, command: list[str], output: str) -> subprocess.Popen[bytes]:
        with (self.folder / output).open("ab") as out:
            process = subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard_against_our_end(process.pid)
        return process

    def _guard_against_our_end(self, pid: int) -> None:
        if self._guard is None:
            command = ["sh", "-c", GUARD, "guard", str(self.folder)]
            self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{pid}\n".encode())
        self._guard.stdin.flush()

    def _accepts_amqp(self) -> bool:
        """Whether the port answers a protocol header with the method frame Connection.Start."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def _wait_port(self, port: int, deadline: float) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RabbitError(f"nothing listens on port {port}\n{self._log_tail()}") from error
                time.sleep(0.01)

    def _log_tail(self, lines: int = 40) -> str:
        texts = []
        for path in (*sorted((self.folder / "log").glob("*.log")), self.folder / "server.out"):
            if path.exists():
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                texts.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(texts) or "(no log)"


def _binary(text: str) -> str:
    """A text as Erlang has it."""
    return f'<<"{text}"/utf8>>'


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
