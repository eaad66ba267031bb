"""What keeps a worker running on a host: systemd, or where there is none, DTS's own supervisor."""

from __future__ import annotations

from typing import Protocol

import msgspec

from dts.errors import CommandFailed, HostError
from dts.model import VirtualHost
from dts.server.hosts.plan import Folders, systemd_unit
from dts.server.ssh import SshConnection

UNIT = "dts-worker.service"
_UNIT_FILE = f"/etc/systemd/system/{UNIT}"

STOP_TIMEOUT = 330.0
"""Seconds that a worker may take to finish what it is at: its drain_timeout, and more."""

_NOT_INSTALLED = (126, 127)
"""Exit statuses of a command that is not there."""


class WorkerService(Protocol):
    """Keeps the worker of one host running."""

    name: str

    async def prepare(self) -> bool:
        """Have the host know the service; whether that changed anything."""

    async def pid(self) -> int:
        """The process id of the worker; 0 when it does not run."""

    async def start(self) -> None:
        """Have it run, now and after a reboot where that is possible."""

    async def stop(self) -> None:
        """Have the worker finish what it is at, and end."""

    async def remove(self) -> None:
        """Have the host forget the service."""


class Systemd:
    """A unit of the system's systemd; the user that is logged in as is root."""

    name = "systemd"

    def __init__(self, ssh: SshConnection, folders: Folders, host: VirtualHost) -> None:
        self._ssh, self._folders, self._host = ssh, folders, host

    async def prepare(self) -> bool:
        unit = systemd_unit(self._folders, self._host.ssh_user, self._host).encode()
        if await self._ssh.read(_UNIT_FILE) == unit:
            return False
        await self._ssh.put(unit, _UNIT_FILE)
        await self._systemctl("daemon-reload")
        return True

    async def pid(self) -> int:
        text = (await self._systemctl("show", "--property=MainPID", "--value", UNIT)).strip()
        return int(text) if text.isdigit() else 0

    async def start(self) -> None:
        await self._systemctl("enable", UNIT)
        await self._systemctl("restart", UNIT)

    async def stop(self) -> None:
        await self._systemctl("stop", UNIT)

    async def remove(self) -> None:
        await self._systemctl("disable", "--now", UNIT)
        await self._ssh.run(["rm", "-f", "--", _UNIT_FILE], check=True)
        await self._systemctl("daemon-reload")

    async def _systemctl(self, *words: str) -> str:
        return (await self._ssh.run(["systemctl", *words], timeout=STOP_TIMEOUT, check=True)).text()


class Supervised:
    """DTS's own supervisor, in the environment in use. It does not start by itself after a reboot."""

    name = "process"

    def __init__(self, ssh: SshConnection, folders: Folders) -> None:
        self._ssh, self._folders = ssh, folders

    async def prepare(self) -> bool:
        return False

    async def pid(self) -> int:
        try:
            text = await self._supervisor("status")
        except CommandFailed as error:
            if error.status in _NOT_INSTALLED:  # there is no environment, so nothing runs in it
                return 0
            raise
        try:
            return int(msgspec.json.decode(text)["pid"])
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise HostError(f"the supervisor said something else than its status: {text[:200]}") from error

    async def start(self) -> None:
        await self._supervisor("start")

    async def stop(self) -> None:
        try:
            await self._supervisor("stop")
        except CommandFailed as error:
            if error.status not in _NOT_INSTALLED:
                raise

    async def remove(self) -> None:
        await self.stop()

    async def _supervisor(self, command: str) -> str:
        argv = [f"{self._folders.current}/bin/python", "-m", "dts.worker.command.supervisor", command]
        done = await self._ssh.run([*argv, self._folders.root], timeout=STOP_TIMEOUT, check=True)
        return done.text()


async def find_service(ssh: SshConnection, folders: Folders, host: VirtualHost, kind: str) -> WorkerService:
    """The service of a host; `auto` is systemd where it runs and may be changed.

    Raises:
        HostError: systemd was asked for, and is not there or not for this user.
    """
    if kind == "process":
        return Supervised(ssh, folders)
    running = (await ssh.run(["test", "-d", "/run/systemd/system"])).status == 0
    root = (await ssh.run(["id", "-u"], check=True)).text().strip() == "0"
    if running and root:
        return Systemd(ssh, folders, host)
    if kind == "systemd":
        why = "systemd does not run there" if not running else f"{host.ssh_user} is not root there"
        raise HostError(f"{host.id}: no unit of systemd can be made: {why}")
    return Supervised(ssh, folders)
