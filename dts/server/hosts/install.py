"""Brings a host into service, and takes it out of it, a step at a time.

Every step looks first and changes only what is not right, so a host that an earlier try has left half-way is finished
by the next one. The environment in use is a link that is replaced in one step while the worker does not run.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

import msgspec

from dts.config import Settings
from dts.errors import HostError
from dts.model import VirtualHost, WorkerState
from dts.server.hosts.environment import build_environment, find_python
from dts.server.hosts.events import HostEvent, Report
from dts.server.hosts.plan import Folders, InstallOptions, read_options, worker_toml
from dts.server.hosts.services import WorkerService, find_service
from dts.server.hosts.wheel import own_wheel
from dts.server.ssh import SshConnection, SshConnections
from dts.store import Store

FOLDER = "dts"
"""Where DTS is, below the home of the user that is logged in as."""

_LOOK_EVERY = 0.25  # seconds between two looks for a heartbeat, which comes through the broker and a daemon
_START_TIMEOUT = 300.0  # seconds until a worker that was started must be a process

State = Literal["done", "unchanged"]


@dataclass(frozen=True, slots=True)
class Installer:
    """Installs the DTS of this server on hosts."""

    settings: Settings
    store: Store
    connections: SshConnections

    async def init(self, host: VirtualHost, asked: InstallOptions, report: Report, *, timeout: float) -> HostEvent:
        """Have a worker run on a host with this server's DTS, and wait up to `timeout` seconds for its heartbeat.

        Raises:
            DtsError: a step failed; the message says which and why.
        """
        begun = time.monotonic()
        toml = worker_toml(host, self.settings)
        key = await asyncio.to_thread(self._fleet_key)
        async with self.connections.use(host) as ssh:
            job = _Init(ssh, Folders(f"{await ssh.home()}/{FOLDER}"), host, report)
            options = await job.options(asked)
            environment = await job.environment(options)
            changed = await job.files(options, toml, key)
            service = await find_service(ssh, job.folders, host, options.service)
            pid = await job.run(service, environment, changed)
            beat = await self._first_heartbeat(host, pid, timeout)
        job.step("heartbeat", "done", f"{beat.state or 'alive'}, version {beat.version}")
        return _done(host, begun)

    async def drain(self, host: VirtualHost, report: Report) -> HostEvent:
        """Have the worker of a host finish what it is at, and end; `init` starts it again."""
        begun = time.monotonic()
        async with self.connections.use(host) as ssh:
            service = await _service_of(ssh, host)
            running = await service.pid()
            if running:
                await service.stop()
        report(HostEvent(host.id, "step", step="drain", state="done" if running else "unchanged"))
        return _done(host, begun)

    async def remove(self, host: VirtualHost, report: Report) -> HostEvent:
        """Take everything off a host that `init` has put there; its record stays."""
        begun = time.monotonic()
        async with self.connections.use(host) as ssh:
            root = await _root(ssh)
            if await ssh.read(Folders(root).options) is not None:
                await (await _service_of(ssh, host)).remove()
                report(HostEvent(host.id, "step", step="service", state="done"))
                await ssh.run(["rm", "-rf", "--", root], timeout=600, check=True)
                report(HostEvent(host.id, "step", step="files", state="done"))
        return _done(host, begun)

    async def status(self, host: VirtualHost) -> HostEvent:
        """What runs on a host, and what its worker's last heartbeat says."""
        begun = time.monotonic()
        async with self.connections.use(host) as ssh:
            installed = await ssh.read(Folders(await _root(ssh)).options) is not None
            pid = await (await _service_of(ssh, host)).pid() if installed else 0
        beat = await self._heartbeat(host)
        text = "not installed" if not installed else f"process {pid}" if pid else "stopped"
        if pid:
            heard = beat is not None and beat.pid == pid
            text += f", {beat.state or 'alive'}, version {beat.version}" if beat and heard else ", not heard of yet"
        return _done(host, begun, text)

    def _fleet_key(self) -> bytes:
        path = self.settings.fleet_key_file
        try:
            return path.read_bytes()
        except OSError as error:
            raise HostError(f"the fleet's key file {path} of the server cannot be read: {error}") from error

    async def _heartbeat(self, host: VirtualHost) -> WorkerState | None:
        """The last heartbeat of a host's worker: it has the host's id for its name."""
        beats = [each for each in await self.store.list_heartbeats() if each.worker == host.id]
        return max(beats, key=lambda each: each.time, default=None)

    async def _first_heartbeat(self, host: VirtualHost, pid: int, timeout: float) -> WorkerState:
        """The first heartbeat of the process that was started.

        Raises:
            HostError: none came in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            beat = await self._heartbeat(host)
            if beat is not None and beat.pid == pid and not beat.has_ended:
                return beat
            if time.monotonic() > deadline:
                raise HostError(
                    f"{host.id}: the worker was started as process {pid}, and no heartbeat came within {timeout:g} s: "
                    f"~/{FOLDER}/log/worker.log, or journalctl -u dts-worker, says why"
                )
            await asyncio.sleep(_LOOK_EVERY)


class _Init:
    """One host while it is brought into service."""

    def __init__(self, ssh: SshConnection, folders: Folders, host: VirtualHost, report: Report) -> None:
        self.folders = folders
        self._ssh, self._host, self._report = ssh, host, report

    def step(self, name: str, state: State, text: str = "") -> None:
        """Report a step."""
        self._report(HostEvent(self._host.id, "step", step=name, state=state, text=text))

    async def options(self, asked: InstallOptions) -> InstallOptions:
        """How to install: as asked, and else as the last time."""
        return asked.over(read_options(await self._ssh.read(self.folders.options)))

    async def environment(self, options: InstallOptions) -> str:
        """Have the environment; returns its folder."""
        python = await find_python(self._ssh, options.python)
        self.step("python", "unchanged", f"{python.path}, {'.'.join(map(str, python.version))}")
        wheel = await asyncio.to_thread(own_wheel)
        folder, made = await build_environment(self._ssh, self.folders, python, wheel, options)
        self.step("environment", "done" if made else "unchanged", wheel.name)
        return folder

    async def files(self, options: InstallOptions, toml: str, key: bytes) -> bool:
        """Have the files that the worker reads; whether one of them changed."""
        changed = [
            await self._file(self.folders.key, key, "key"),
            await self._file(self.folders.settings, toml.encode(), "settings"),
        ]
        await self._file(self.folders.options, msgspec.json.encode(options), "options")
        if self._host.functions_dir:
            await self._ssh.make_folder(self._host.functions_dir)
        return any(changed)

    async def _file(self, path: str, content: bytes, what: str) -> bool:
        changed = await self._ssh.read(path) != content
        if changed:
            folder = path.rpartition("/")[0]
            await self._ssh.make_folder(folder, mode=0o700)
            await self._ssh.put(content, path, mode=0o600)
            await self._ssh.sync(folder)
        self.step(what, "done" if changed else "unchanged")
        return changed

    async def run(self, service: WorkerService, environment: str, changed: bool) -> int:
        """Have the worker run in an environment; started anew only if something changed. Returns its process id."""
        changed = await service.prepare() or changed
        in_use = (await self._ssh.run(["readlink", "--", self.folders.current])).text().strip()
        pid = await service.pid()
        if pid and not changed and in_use == environment:
            self.step("service", "unchanged", f"{service.name}, process {pid}")
            return pid
        if pid:
            await service.stop()
        if in_use != environment:
            await self._ssh.link(environment, self.folders.current)
            await self._ssh.sync(self.folders.root)
        await service.start()
        pid = await self._started(service)
        self.step("service", "done", f"{service.name}, process {pid}")
        return pid

    async def _started(self, service: WorkerService) -> int:
        """The process id of a worker that has just been started.

        Raises:
            HostError: there is none.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while not (pid := await service.pid()):
            if time.monotonic() > deadline:
                raise HostError(f"{self._host.id}: the worker was started and does not run: ~/{FOLDER}/log/worker.log")
            await asyncio.sleep(_LOOK_EVERY)
        return pid


def _done(host: VirtualHost, begun: float, text: str = "") -> HostEvent:
    return HostEvent(host.id, "end", state="done", text=text, seconds=round(time.monotonic() - begun, 3))


async def _root(ssh: SshConnection) -> str:
    return f"{await ssh.home()}/{FOLDER}"


async def _service_of(ssh: SshConnection, host: VirtualHost) -> WorkerService:
    folders = Folders(await _root(ssh))
    return await find_service(ssh, folders, host, read_options(await ssh.read(folders.options)).service)
