"""The server as a service: store, broker, handlers and, when asked to, the daemons, in one life."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from pathlib import Path

import msgspec
from tornado.netutil import bind_sockets
from tornado.web import Application

from dts.broker import Broker, open_broker
from dts.config import Settings
from dts.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from dts.model import DEFAULT_ROUTE
from dts.runtime.fleet_key import make_fleet_key
from dts.runtime.log_throttle import OutageLog
from dts.runtime.metrics import BROKER_CALLS, time_calls
from dts.runtime.service import Service
from dts.runtime.single import cannot_listen
from dts.server.access.accounts import Accounts
from dts.server.access.key_box import KeyBox
from dts.server.access.limits import Limiter
from dts.server.access.names import Names
from dts.server.access.parties import PartiesOf
from dts.server.access.secret_sets import refresh_all
from dts.server.alerts.dead import watch_dead_letters
from dts.server.audit.checkpoint import LogCheckpoint
from dts.server.audit.log import OperationLog
from dts.server.context import Context
from dts.server.daemons import DAEMONS, Daemon, Presence, check_files
from dts.server.handlers._base import DtsHandler, NotFoundHandler
from dts.server.handlers._metrics import observe_request
from dts.server.hosts.deployer import Deployer
from dts.server.listen.acceptor import Acceptor, allowed_connections
from dts.server.listen.body_memory import BodyMemory
from dts.server.listen.http import MAX_HEAD, PeerServer
from dts.server.listen.peers import Peers
from dts.server.listen.proxies import Proxies
from dts.server.listen.starting import StartingServer
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.figures import Figures
from dts.server.lookup.fleet import Fleet
from dts.server.lookup.hub import Hub
from dts.server.notify.outbox import Outbox
from dts.server.openapi import describe
from dts.server.plugins.runner import PluginRunner
from dts.server.publish.claims import Claims
from dts.server.publish.marks import Marks
from dts.server.publish.publisher import Publisher
from dts.server.publish.waiting import WhyWaiting
from dts.server.record.job_metrics import observe_store
from dts.server.routes import ROUTES
from dts.server.ssh import SshConnections
from dts.store import Store, open_store
from dts.wire import queues
from dts.wire.seal import Seal

logger = logging.getLogger(__name__)

_RETRY = 1.0

_BACKLOG = 1024
"""Connections that the kernel keeps while none are accepted: as many as a fleet's clients open at once."""


class Server(Service):
    """Serves until it is stopped. Several on the same store and broker behave as one."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.port = settings.server.port

    async def _start(self) -> None:
        settings = self._settings
        self._daemons()  # names one that there is not, before anything is touched
        check_files(settings)
        sockets = self._bind()
        self._stack.callback(_close_all, sockets)
        store = open_store(settings.store.url)
        self._stack.push_async_callback(store.close)
        observe_store(store)
        watch_dead_letters(store)
        keys = await self._open_keys(store, sockets)
        seal = make_fleet_key(settings.fleet_key_file, keys.derive("fleet"))  # the same on every server
        broker = open_broker(settings.broker.url, settings.broker.routes, seal=seal)
        self._stack.push_async_callback(broker.close)
        time_calls(broker, "broker", BROKER_CALLS)
        await broker.start()
        self._spawn(self._declare_queues(broker, keys.derive("installation")), "server-queues")
        context = self._context(store, broker, keys, seal)
        await self._start_services(context)
        ready = await self._prepare(context, wait=False)
        self._serve(context, sockets)
        if ready:
            await self._start_daemons(context)
        else:
            self._spawn(self._prepare_later(context), "server-prepare")

    def _context(self, store: Store, broker: Broker, keys: KeyBox, seal: Seal) -> Context:
        """What the handlers work with."""
        settings = self._settings
        accounts = Accounts(store, keys)
        catalogue = Catalogue(store, Path(settings.server.functions) if settings.server.functions else None)
        hub = Hub(broker, catalogue, store)
        claims = Claims(store, settings.daemons.relay_after)
        fleet = Fleet(store)
        parties_of, marks = PartiesOf(store, catalogue), Marks(broker, fleet, settings.server)
        publisher = Publisher(store, broker, settings.server, parties_of=parties_of, claims=claims, marks=marks)
        return Context(
            settings.server,
            store,
            broker,
            accounts,
            catalogue,
            publisher,
            hub,
            self._operation_log(store, keys),
            Limiter(store, catalogue),
            Names(settings.server.names, settings.server.host, self.port, settings.server.base_path),
            BodyMemory(settings.server.body_memory),
            Proxies(settings.server.trusted_proxies),
            fleet,
            Figures(store, broker),
            SshConnections(keys),
            msgspec.json.encode(describe(ROUTES)),
            Outbox(store, settings),
            settings,
            seal,
            WhyWaiting(store, parties_of, fleet, marks),
        )

    async def _start_services(self, context: Context) -> None:
        """Start what runs beside the handlers; the server cannot do without any of it."""
        publisher = context.publisher
        for service in (
            context.hub,
            publisher.claims,
            publisher,
            context.ssh,
            PluginRunner(context),
            Deployer(context.store, context.ssh, context.catalogue),
        ):
            service.failed = self.failed
            await service.start()
            self._stack.push_async_callback(service.stop)

    async def _open_keys(self, store: Store, sockets: list[socket.socket]) -> KeyBox:
        """The server's keys; only the first server of a store makes a key file.

        Raises:
            ConfigError: the file cannot be used, or is missing and the store was used with one before.
        """
        path = self._settings.server.key_file
        if not path.exists():
            starting = StartingServer(sockets)
            try:
                await self._wait_for_unused(store)
            finally:
                await starting.stop()
        return KeyBox.open(path)

    async def _wait_for_unused(self, store: Store) -> None:
        """Wait for the store, and make sure that no key was used with it. Raises ConfigError if one was."""
        path, outage = self._settings.server.key_file, OutageLog(logger)
        while True:
            try:
                await store.start()
                used = await store.has_users()
                await store.close()  # it is started for good when everything else is there
            except StoreUnavailable as error:
                outage.failed("waiting for the store, which may need a key file that is not here (%s): %s", path, error)
                await asyncio.sleep(_RETRY)
                continue
            if used:
                raise ConfigError(
                    f"the server's key file {path} is not there, and the store was used with one before: copy that "
                    "of another server of this store, or name it with [server] key_file"
                )
            return

    def _operation_log(self, store: Store, keys: KeyBox) -> OperationLog:
        folder, key = self._settings.server.key_file.parent, keys.derive("operations-anchor")
        return OperationLog(store, keys.derive("operations"), LogCheckpoint(folder, self._settings.store.url, key))

    def _bind(self) -> list[socket.socket]:
        """Take the port first: a server that cannot listen should not touch the store."""
        settings = self._settings.server
        try:
            sockets = bind_sockets(settings.port, settings.host, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(cannot_listen(settings.host, settings.port, error)) from error
        self.port = sockets[0].getsockname()[1]
        return sockets

    def _serve(self, context: Context, sockets: list[socket.socket]) -> None:
        base_path = re.escape(self._settings.server.base_path)
        application = Application(
            [
                (base_path + route.pattern, route.handler, {"context": context, "template": route.template})
                for route in ROUTES
            ],
            default_handler_class=NotFoundHandler,
            default_handler_args={"context": context},
            log_function=_log_request,
        )
        server = PeerServer(application, max_header_size=MAX_HEAD, max_body_size=2**40)  # handlers limit bodies
        most = allowed_connections(self._settings.server.max_connections)
        server.peers = Peers(self._settings.server, most, context.proxies)
        acceptor = Acceptor(sockets, server.take, server.peers.make_room)
        self._stack.callback(server.peers.stop)
        self._stack.push_async_callback(self._stop_http, server)
        self._stack.callback(acceptor.stop)
        server.peers.start()
        acceptor.start()
        logger.info("serving on http://%s:%d", self._settings.server.host, self.port)

    async def _stop_http(self, server: PeerServer) -> None:
        try:
            await asyncio.wait_for(server.close_all_connections(), self._settings.server.shutdown_timeout)
        except TimeoutError:
            logger.warning("some connections were cut off")

    async def _prepare(self, context: Context, *, wait: bool) -> bool:
        """Make the store ready for use; False if it is away and `wait` is not set."""
        while True:
            try:
                await context.store.start()
                await context.accounts.ensure_administrator(self._settings.server.admin_secret_file)
                await context.accounts.check_key_file()
                await refresh_all(context.store, context.accounts.keys, context.seal)
                await context.catalogue.register_folders()
                await context.operations.check_end()
            except StoreUnavailable as error:
                context.outages.failed("waiting for the store, answering 503 until then: %s", error)
                if not wait:
                    return False
                await asyncio.sleep(_RETRY)
            else:
                return True

    async def _declare_queues(self, broker: Broker, installation: bytes) -> None:
        """Make the queues of the main road while nobody needs them yet; end the server if they are not ours."""
        outage = OutageLog(logger)
        while True:
            try:
                await broker.claim_for(installation)
                await broker.declare([queues.DEAD, queues.RESULTS, queues.jobs_queue(DEFAULT_ROUTE)])
            except BrokerUnavailable as error:
                outage.failed("the broker is away; jobs are accepted, and published when it is back: %s", error)
                await asyncio.sleep(_RETRY)
            except ConfigError as error:
                logger.critical("%s", error)
                self.failed.set()
                return
            else:
                return

    async def _prepare_later(self, context: Context) -> None:
        await self._prepare(context, wait=True)
        logger.info("the store is there")
        await self._start_daemons(context)

    async def _start_daemons(self, context: Context) -> None:
        daemons: dict[str, Daemon] = {}
        for name in self._daemons():
            daemons[name] = daemon = DAEMONS[name](context.store, context.broker, self._settings)
            daemon.failed = self.failed
            await daemon.start()
            self._stack.push_async_callback(daemon.stop)
        if daemons:
            presence = Presence(context.broker, daemons)
            presence.failed = self.failed
            await presence.start()
            self._stack.push_async_callback(presence.stop)

    def _daemons(self) -> list[str]:
        """The daemons to run inside this process."""
        asked = self._settings.server.daemons.split()
        if asked == ["auto"]:
            asked = ["all"] if self._settings.broker.url.startswith("sqlite:") else []
        if asked == ["all"]:
            return list(DAEMONS)
        if asked == ["none"]:
            return []
        unknown = [name for name in asked if name not in DAEMONS]
        if unknown:
            raise ConfigError(f"[server.daemons] there is no daemon {unknown[0]}: name some of {', '.join(DAEMONS)}")
        return asked


def _close_all(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _log_request(handler: object) -> None:
    """Count each request, and log none: at full speed the log would cost more than the work."""
    if isinstance(handler, DtsHandler):
        observe_request(handler)
