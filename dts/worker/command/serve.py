"""What the command `python -m dts.worker` does around a worker: its signals, its checks, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dts.broker import Broker, open_broker
from dts.config import Settings, WorkerSettings
from dts.errors import BrokerError, ConfigError
from dts.runtime import process
from dts.runtime.fleet_key import find_fleet_key, read_fleet_key
from dts.runtime.metrics import BROKER_CALLS, time_calls
from dts.runtime.process import Shutdown
from dts.wire import sanitize
from dts.wire.seal import Seal
from dts.worker.command.reload import Reloader
from dts.worker.command.signals import Signals
from dts.worker.command.systemd import Notifier
from dts.worker.telemetry.agent import Agent
from dts.worker.telemetry.figures import missing, publish_figures
from dts.worker.telemetry.prober import Prober, running_jobs
from dts.worker.telemetry.rights import RightsCheck, describe_excess
from dts.worker.telemetry.shipping import LogShipper, ShippingHandler
from dts.worker.telemetry.tail import problem_of
from dts.worker.worker import Worker

if TYPE_CHECKING:
    from dts.worker.versions.fetch import VersionFetcher

_BURST_INTERVAL = 0.2  # seconds between looks at the queues
_BURST_LOOKS = 3  # times in a row that nothing must be left
_BURST_PATIENCE = 30.0  # seconds without an answer of a broker, after which a burst has failed

logger = logging.getLogger(__name__)


async def check(settings: Settings) -> int:
    """Say whether the worker could work: whether its brokers answer, and its log files can be followed.

    Raises:
        ConfigError: its settings are wrong.
    """
    check_settings(settings.worker)
    folder = settings.worker.functions
    if folder and not Path(folder).is_dir():  # noqa: ASYNC240 - nothing else runs
        raise ConfigError(f"[worker.functions] {folder!r} is not a directory")
    code = process.EXIT_OK
    if not settings.broker.url.startswith("sqlite:") and read_fleet_key(settings.fleet_key_file) is None:
        print(f"key file {settings.fleet_key_file}: is not there: copy it from a server", file=sys.stderr)  # noqa: T201
        code = process.EXIT_FAILED
    for url in dict.fromkeys([settings.broker.url, *(route.broker for route in settings.worker.route)]):
        if not url:
            continue
        place = url.rpartition("@")[2]  # without a password
        try:
            async with open_broker(url) as broker, asyncio.timeout(10):
                await broker.ping()
                excess = await describe_excess(broker)
        except (BrokerError, TimeoutError) as error:
            print(f"broker {place}: {error}", file=sys.stderr)  # noqa: T201
            code = process.EXIT_FAILED
        else:
            print(f"broker {place}: answers{f'; {excess}' if excess else ''}", file=sys.stderr)  # noqa: T201
    for path in settings.worker.log_files:
        if problem := problem_of(path):
            print(f"log file {path}: cannot be followed: {problem}", file=sys.stderr)  # noqa: T201
            code = process.EXIT_FAILED
    return code


async def serve(
    settings: Settings,
    shutdown: Shutdown,
    *,
    reload: Callable[[], Settings],
    signals: Signals,
    burst: bool = False,
) -> int:
    """Run a worker until it is asked to end, or until its queues are empty; returns the exit code.

    Raises:
        ConfigError: the settings are wrong.
    """
    level = check_settings(settings.worker)
    async with AsyncExitStack() as stack:
        seal = await find_fleet_key(settings, shutdown.requested)
        if seal is None:
            return process.EXIT_OK
        open_sealed = partial(open_broker, seal=seal)
        broker = open_sealed(settings.broker.url)
        time_calls(broker, "broker", BROKER_CALLS)
        await stack.enter_async_context(broker)
        fetcher = _fetcher(stack, settings.worker, seal)
        worker = Worker(
            settings.worker, broker, hurry=shutdown.hurry, open_broker=open_sealed, fetcher=fetcher, seal=seal
        )
        shipper, notifier, rights = LogShipper(broker), Notifier(), RightsCheck(broker)
        prober = Prober(worker, broker, rights)
        await _start_monitor(stack, settings, worker, broker)
        agent = Agent(settings.worker.log_files, level, shipper)
        for each in (shipper, agent, prober, notifier, rights):
            each.failed = worker.failed  # a worker that cannot report any more must end
        await stack.enter_async_context(shipper)
        worker.send_logs_to(shipper.put)
        shipping = _ship_own_logs(stack, shipper, worker.name, level)
        # The prober before the worker: it is stopped later, and reports the drain.
        for part in (rights, agent, prober, worker, notifier):
            await stack.enter_async_context(part)
        reloader = Reloader(
            settings=settings,
            load=reload,
            check=check_settings,
            worker=worker,
            agent=agent,
            shipping=shipping,
            notifier=notifier,
        )
        stack.push_async_callback(reloader.stop)
        signals.heed(stack, SIGHUP=reloader.request, SIGUSR1=partial(dump, worker))
        if burst:
            watching = asyncio.create_task(_until_empty(worker, shutdown), name="burst")
            stack.callback(watching.cancel)
        await shutdown.wait(worker.failed)
        code = process.EXIT_FAILED if worker.failed.is_set() else process.EXIT_OK
    return code


def _fetcher(stack: AsyncExitStack, settings: WorkerSettings, seal: Seal) -> VersionFetcher | None:
    """What fetches versions from the server that the settings name; None if they name none."""
    if not settings.server_url:
        return None
    from dts.worker.versions.fetch import VersionFetcher  # loads an HTTP client

    fetcher = VersionFetcher(settings.server_url, seal, settings.server_ca)
    stack.callback(fetcher.close)
    return fetcher


async def _start_monitor(stack: AsyncExitStack, settings: Settings, worker: Worker, broker: Broker) -> None:
    """Publish the worker's metrics, on a port of their own if one is set."""
    publish_figures(worker)
    if settings.metrics.port:
        from dts.runtime.monitor import Monitor  # loads an HTTP server, which most workers have no use for

        await stack.enter_async_context(Monitor(settings.metrics, partial(missing, worker, broker)))


def check_settings(settings: WorkerSettings) -> int:
    """Check what the types of the settings cannot; returns the number of the level of logs.

    Raises:
        ConfigError: something is wrong.
    """
    if not settings.name.isprintable():
        raise ConfigError(f"[worker.name] {settings.name!r} has characters that cannot be printed")
    if len(settings.name) > sanitize.MAX_NAME:  # longer ones are refused with all that the worker has done
        raise ConfigError(f"[worker.name] has {len(settings.name)} characters: {sanitize.MAX_NAME} are the most")
    if not settings.routes and not settings.route:
        raise ConfigError("[worker.routes] is empty: a worker without routes does nothing")
    _check_child_user(settings.child_user)
    if settings.server_url and not settings.server_url.startswith(("http://", "https://")):
        raise ConfigError(f"[worker.server_url] {settings.server_url!r} must begin with http:// or https://")
    _level_number("job_log_level", settings.job_log_level)
    return _level_number("log_level", settings.log_level)


def _check_child_user(name: str) -> None:
    if not name:
        return
    try:
        user = pwd.getpwnam(name)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"[worker.child_user] {name!r} is no user of this machine") from error
    if user.pw_uid == 0:
        raise ConfigError("[worker.child_user] must not be root: functions would have every right")
    if os.geteuid() != 0:
        raise ConfigError(
            f"[worker.child_user] {name!r}: only a worker that runs as root can run its children as another"
        )


def _level_number(setting: str, name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise ConfigError(f"[worker.{setting}] {name!r} is not a level: use DEBUG, INFO, WARNING or ERROR")
    return number


def _ship_own_logs(stack: AsyncExitStack, shipper: LogShipper, name: str, level: int) -> ShippingHandler:
    handler = ShippingHandler(shipper, name, level)
    logging.getLogger().addHandler(handler)
    stack.callback(logging.getLogger().removeHandler, handler)
    return handler


def dump(worker: Worker) -> None:
    """Print to stderr what each child is doing, and have each print where it is."""
    lines = [f"{worker.name}: {len(worker.executor.children)} children"]
    for child in worker.executor.children:
        jobs = ", ".join(
            f"{job.job} of {job.function}, {time.time() - job.started:.1f} s" for job in running_jobs(child)
        )
        doing = child.board.phase.name.lower() if child.given else "idle"
        lines.append(f"  child {child.pid}: {doing}{': ' if jobs else ''}{jobs}")
        child.dump()
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201


async def _until_empty(worker: Worker, shutdown: Shutdown) -> None:
    """End the worker once nothing was left to do at several checks in a row, or when no broker answers any more."""
    quiet, answered = 0, time.monotonic()
    while quiet < _BURST_LOOKS:
        await asyncio.sleep(_BURST_INTERVAL)
        try:
            async with asyncio.timeout(_BURST_PATIENCE):
                waiting = await worker.routes.depth()
            answered = time.monotonic()
        except (BrokerError, TimeoutError) as error:
            waiting = 1
            if time.monotonic() - answered >= _BURST_PATIENCE:
                logger.error("a broker has not answered for %g s: %s", _BURST_PATIENCE, error)
                worker.failed.set()
                return
        # A message may have been fetched and wait in a consumer until the first child is ready.
        quiet = quiet + 1 if worker.idle and worker.executor.slots and not waiting else 0
    shutdown.requested.set()
