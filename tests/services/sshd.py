"""OpenSSH servers of one's own: each on a free port of 127.0.0.1, with a home, a host key and a user's key of its own.

A server stands for a host of the fleet. All run as the current user, so HOME tells their files apart. What was started
over ssh and outlives its connection is ended with the server. Needs Debian's `openssh-server`, and no test framework.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from getpass import getuser
from pathlib import Path

import asyncssh
import psutil

from tests.services.base import Managed, free_port
from tests.services.waiting import wait_until

SSHD = Path("/usr/sbin/sshd")

START_TIMEOUT = 60.0
"""Seconds until a server must accept connections; it takes a few milliseconds on an idle machine."""

CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
UseDNS no
MaxStartups 200
MaxSessions 10
SetEnv HOME={folder}/home DTS_TEST_HOST={folder}
Subsystem sftp internal-sftp -d {folder}/home
"""


def available() -> bool:
    """Whether this machine has an OpenSSH server that can be started."""
    return SSHD.exists()


class SshServer(Managed):
    """An OpenSSH server. `start`, then `kill` and `start` again on the same data, then `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dts-sshd-"))
        self.port = free_port()
        self.user = getuser()
        self.home = self.folder / "home"
        self.home.mkdir()
        self._server: subprocess.Popen[bytes] | None = None
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.private_key = key.export_private_key("openssh").decode()
        """The key that logs in, as text."""
        (self.folder / "authorized_keys").write_bytes(key.export_public_key("openssh"))
        self.host_key = self.new_host_key()
        """The host's public key, as in known_hosts."""
        (self.folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=self.folder))

    def new_host_key(self) -> str:
        """Give the host another key, in force when it starts next; returns the public one."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = self.folder / "host_key"
        path.write_bytes(key.export_private_key("openssh"))
        path.chmod(0o600)
        self.host_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        return self.host_key

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd confines what has not logged in yet
        log = (self.folder / "sshd.log").open("ab")
        with log:
            self._server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", SSHD, "-D", "-e", "-f", self.folder / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._accepts, f"sshd to listen: {self.log()}", timeout=START_TIMEOUT)

    def _accepts(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise RuntimeError(f"sshd ended with status {self._server.returncode}: {self.log()}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def log(self) -> str:
        """What the server has written."""
        path = self.folder / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """SIGKILL the server and its sessions, as when the host loses its power; what it runs for DTS goes on."""
        if self._server is None:
            return
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._server.pid)
            sessions = [each for each in family.children(recursive=True) if each.name().startswith("sshd")]
            for process in (family, *sessions):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._server.wait()
        self._server = None

    def processes(self) -> list[psutil.Process]:
        """What runs on this host: what was started over ssh, at whatever remove."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("DTS_TEST_HOST") == str(self.folder):
                    found.append(process)
        return found

    def stop(self) -> None:
        self.kill()
        while alive := [process for process in self.processes() if process.status() != psutil.STATUS_ZOMBIE]:
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)
