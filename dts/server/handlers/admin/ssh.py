"""`/admin/ssh/`: an administrator's work on hosts, reported line by line while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct
from tornado.iostream import StreamClosedError

from dts.errors import HostError
from dts.model import User, VirtualHost
from dts.model.ranges import PORT
from dts.server.consts import CONTENT_NDJSON, ErrorCode
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.admin.vhosts import check_address
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.recorded import operation_logger
from dts.server.hosts.command import run_command
from dts.server.hosts.events import HostEvent, Report
from dts.server.hosts.everywhere import PARALLEL, everywhere, one_by_one
from dts.server.hosts.install import Installer
from dts.server.hosts.plan import InstallOptions
from dts.server.hosts.select import MAX_NAMED, select_hosts
from dts.server.ssh import fetch_host_key
from dts.server.ssh.connection import command_line
from dts.server.ssh.credentials import without_credentials

_SIGN_OF_LIFE = 10.0
"""Seconds without an event after which an empty line is sent: clients and proxies give up on what is silent."""

_MOST_WAITING = 4 * 1024 * 1024
"""Bytes of events that wait for a client which reads slowly; output beyond is left out, and that is said."""

Words = Annotated[list[Annotated[str, Meta(max_length=100_000)]], Meta(min_length=1, max_length=1000)]
HostIds = Annotated[list[str], Meta(max_length=MAX_NAMED)]
Timeout = Annotated[float, Meta(gt=0, le=86_400)]
Parallel = Annotated[int, Meta(ge=1, le=64)]


class Hosts(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which hosts: by name, by group, or both."""

    hosts: HostIds = []
    group: Annotated[str, Meta(max_length=64)] = ""


class HostCommand(Hosts, kw_only=True):
    """A command for hosts: a list of arguments, which no shell takes apart."""

    argv: Words
    timeout: Timeout = 60.0
    parallel: Parallel = PARALLEL


class Place(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where an ssh server answers."""

    address: Annotated[str, Meta(min_length=1, max_length=255)]
    port: Annotated[int, Meta(ge=int(PORT.low), le=int(PORT.high))] = 22


class ShownKey(Struct):
    """The key that a host shows now; nothing proves that it is that host's."""

    host_key: str
    fingerprint: str


class HostKeyHandler(DtsHandler):
    """`/admin/ssh/host-key`: the key that a host shows, for an administrator to compare its fingerprint."""

    @authorized
    @declares(answer=ShownKey, body=Place, errors=(ErrorCode.HOST_UNAVAILABLE,))
    async def post(self, user: User) -> None:
        """Fetch the host key of an address; nothing is stored."""
        place = self.params(Place)
        check_address(place.address)
        try:
            key = await fetch_host_key(place.address, place.port)
        except HostError as error:
            raise ApiError(ErrorCode.HOST_UNAVAILABLE, str(error)) from error
        self.answer(ShownKey(key.line, key.fingerprint))


class EventsHandler(DtsHandler):
    """Base of what works on hosts: the answer is a line of JSON for each event, as it happens.

    A client that goes away ends the work; what a host has begun by then, it may finish.
    """

    _work: asyncio.Task[Sequence[HostEvent]] | None = None

    async def events(self, work: Callable[[Report], Awaitable[Sequence[HostEvent]]]) -> Sequence[HostEvent]:
        """Do some work, and send what it reports.

        Raises:
            ApiError: the client went away.
        """
        self.set_header("Content-Type", CONTENT_NDJSON)
        lines = _Lines()
        self._work = task = asyncio.create_task(_until_done(work, lines))
        try:
            while (chunk := await lines.next()) is not None:
                self.write(chunk)
                await self.flush()
        except StreamClosedError:
            task.cancel()
        finally:
            await asyncio.wait([task])
        if task.cancelled():
            raise ApiError(ErrorCode.CLIENT_GONE, "the client went away, so the work on the hosts was ended")
        return task.result()

    def on_connection_close(self) -> None:
        """The client has left: called by Tornado."""
        super().on_connection_close()
        if self._work is not None:
            self._work.cancel()

    async def chosen(self, hosts: Hosts) -> list[VirtualHost]:
        """The records of the hosts that are meant."""
        return await select_hosts(self.context.store, hosts.hosts, hosts.group)


class SshRunHandler(EventsHandler):
    """`/admin/ssh/run`: a command on hosts."""

    @authorized
    @declares(body=HostCommand, gives=(CONTENT_NDJSON,))
    async def post(self, user: User) -> None:
        """Run a command on hosts; answers with its output and its exit status on each, a line of JSON an event."""
        params = self.params(HostCommand)
        command_line(params.argv, params.timeout)
        hosts = await self.chosen(params)
        asked = {"argv": params.argv, "hosts": [host.id for host in hosts], "timeout": params.timeout}
        self.on_record = asked
        await self._run(user, params.group or ",".join(params.hosts)[:64], (params, hosts))
        self.finish()

    @operation_logger("ssh.run")
    async def _run(self, user: User, doc_id: str, what: tuple[HostCommand, list[VirtualHost]]) -> None:
        params, hosts = what

        async def work(report: Report) -> Sequence[HostEvent]:
            return await run_command(
                self.context.ssh, hosts, params.argv, report, timeout=params.timeout, parallel=params.parallel
            )

        ends = await self.events(work)
        assert self.on_record is not None
        self.on_record = {**self.on_record, "ended": {end.host: end.status for end in ends}}


class InitParams(Hosts, kw_only=True):
    """How hosts are brought into service; `heartbeat_timeout` is in seconds."""

    options: InstallOptions = InstallOptions()
    heartbeat_timeout: Timeout = 120.0
    parallel: Parallel = PARALLEL


class HostWorkHandler(EventsHandler):
    """Base of what is done to hosts that run, or are to run, a worker."""

    name: ClassVar[str]
    fields: ClassVar[type[Hosts]] = Hosts

    async def work(self, params: Any, hosts: Sequence[VirtualHost], report: Report) -> Sequence[HostEvent]:
        """Do it."""
        raise NotImplementedError

    @property
    def installer(self) -> Installer:
        """Installs this server's DTS."""
        return Installer(self.context.whole_settings, self.context.store, self.context.ssh)

    async def serve(self, user: User) -> None:
        """Do the work, on record, and report it."""
        params = self.params(self.fields)
        hosts = await self.chosen(params)
        self.on_record = {**_on_record(msgspec.to_builtins(params)), "hosts": [host.id for host in hosts]}
        await self._recorded(user, params.group or ",".join(params.hosts)[:64], (params, hosts))
        self.finish()

    @operation_logger("hosts.{name}")
    async def _recorded(self, user: User, doc_id: str, what: tuple[Hosts, list[VirtualHost]]) -> None:
        params, hosts = what
        ends = await self.events(lambda report: self.work(params, hosts, report))
        assert self.on_record is not None
        self.on_record = {**self.on_record, "ended": {end.host: end.state for end in ends}}


class InstallHandler(HostWorkHandler):
    """Base of the handlers that bring this server's DTS to hosts."""

    fields = InitParams

    def installing(self, params: InitParams, report: Report) -> Callable[[VirtualHost], Awaitable[HostEvent]]:
        """What is done with each host."""
        timeout = params.heartbeat_timeout
        return lambda host: self.installer.init(host, params.options, report, timeout=timeout)


class InitHandler(InstallHandler):
    """`/admin/ssh/init`: hosts are brought into service."""

    name = "init"

    @authorized
    @declares(body=InitParams, gives=(CONTENT_NDJSON,))
    async def post(self, user: User) -> None:
        """Have a worker run on hosts with this server's DTS; a line of JSON a step. What is right is left as it is."""
        await self.serve(user)

    async def work(self, params: InitParams, hosts: Sequence[VirtualHost], report: Report) -> Sequence[HostEvent]:
        return await everywhere(hosts, self.installing(params, report), report, parallel=params.parallel)


class UpgradeHandler(InstallHandler):
    """`/admin/ssh/upgrade`: hosts get this server's DTS, one after the other."""

    name = "upgrade"

    @authorized
    @declares(body=InitParams, gives=(CONTENT_NDJSON,))
    async def post(self, user: User) -> None:
        """Bring hosts to this server's DTS one at a time; the first that does not come back ends it."""
        await self.serve(user)

    async def work(self, params: InitParams, hosts: Sequence[VirtualHost], report: Report) -> Sequence[HostEvent]:
        return await one_by_one(hosts, self.installing(params, report), report)


class HostStatusHandler(HostWorkHandler):
    """`/admin/ssh/status`: what runs on hosts."""

    @authorized
    @declares(body=Hosts, gives=(CONTENT_NDJSON,))
    async def post(self, user: User) -> None:
        """Look at hosts over ssh: what is installed, what runs, and the last heartbeat. Changes nothing."""
        hosts = await self.chosen(self.params(Hosts))
        await self.events(lambda report: everywhere(hosts, self._status, report, parallel=PARALLEL))
        self.finish()

    async def _status(self, host: VirtualHost) -> HostEvent:
        return await self.installer.status(host)


class DrainHandler(HostWorkHandler):
    """`/admin/ssh/drain`: workers finish what they are at, and end."""

    name = "drain"

    @authorized
    @declares(body=Hosts, gives=(CONTENT_NDJSON,))
    async def post(self, user: User) -> None:
        """Have the workers on hosts finish what they are at, and end; `init` starts them again."""
        await self.serve(user)

    async def work(self, params: Hosts, hosts: Sequence[VirtualHost], report: Report) -> Sequence[HostEvent]:
        return await everywhere(hosts, partial(self.installer.drain, report=report), report, parallel=PARALLEL)


class RemoveHandler(HostWorkHandler):
    """`/admin/ssh/remove`: what `init` has put on hosts is taken off them."""

    name = "remove"

    @authorized
    @declares(body=Hosts, gives=(CONTENT_NDJSON,))
    async def post(self, user: User) -> None:
        """Drain workers, and take DTS off their hosts; the records of the hosts stay."""
        await self.serve(user)

    async def work(self, params: Hosts, hosts: Sequence[VirtualHost], report: Report) -> Sequence[HostEvent]:
        return await everywhere(hosts, partial(self.installer.remove, report=report), report, parallel=PARALLEL)


def _on_record(asked: Any) -> Any:
    """What was asked for, as the operation log has it: no URL in it shows a password."""
    if isinstance(asked, str):
        return without_credentials(asked)
    if isinstance(asked, dict):
        return {name: _on_record(value) for name, value in asked.items()}
    return [_on_record(value) for value in asked] if isinstance(asked, list | tuple) else asked


class _Lines:
    """Events as lines that wait to be sent."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._left_out = 0
        self._news = asyncio.Event()
        self._ended = False

    def report(self, event: HostEvent) -> None:
        """Add an event."""
        line = msgspec.json.encode(event) + b"\n"
        if event.event == "output" and len(self._waiting) + len(line) > _MOST_WAITING:
            self._left_out += len(line)
            return
        self._waiting += line
        self._news.set()

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True
        self._news.set()

    async def next(self) -> bytes | None:
        """What waits, an empty line when nothing came for a while, None at the end."""
        try:
            async with asyncio.timeout(_SIGN_OF_LIFE):
                await self._news.wait()
        except TimeoutError:
            return b"\n"
        self._news.clear()
        chunk = bytes(self._waiting)
        self._waiting.clear()
        if self._left_out:
            chunk += msgspec.json.encode({"event": "left_out", "bytes": self._left_out}) + b"\n"
            self._left_out = 0
        if self._ended and not chunk:
            return None
        if self._ended:
            self._news.set()
        return chunk


async def _until_done(work: Callable[[Report], Awaitable[Sequence[HostEvent]]], lines: _Lines) -> Sequence[HostEvent]:
    try:
        return await work(lines.report)
    finally:
        lines.end()
