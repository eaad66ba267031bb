"""What the command `python -m dts.worker` does around a worker: its signals, its checks, its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from dts.broker import open_broker
from dts.config import Settings
from dts.errors import BrokerError, ConfigError
from dts.runtime import process
from dts.runtime.process import Shutdown
from dts.worker.agent import Agent
from dts.worker.outward import LogShipper, ShippingHandler
from dts.worker.prober import Prober, running_jobs
from dts.worker.reload import Reloader
from dts.worker.systemd import Notifier
from dts.worker.worker import Worker

_BURST_INTERVAL = 0.2  # seconds between looks at the queues
_BURST_LOOKS = 3  # times in a row that nothing must be left


async def check(settings: Settings) -> int:
    """Say whether the worker could work: its settings are valid already, so whether its brokers answer."""
    log_level(settings.worker.log_level)
    folder = settings.worker.functions
    if folder and not Path(folder).is_dir():  # noqa: ASYNC240 - nothing else runs
        raise ConfigError(f"[worker.functions] {folder!r} is not a directory")
    code = process.EXIT_OK
    for url in dict.fromkeys([settings.broker.url, *(route.broker for route in settings.worker.route)]):
        if not url:
            continue
        place = url.rpartition("@")[2]  # without a password
        try:
            async with open_broker(url) as broker, asyncio.timeout(10):
                await broker.ping()
        except (BrokerError, TimeoutError) as error:
            print(f"broker {place}: {error}", file=sys.stderr)  # noqa: T201
            code = process.EXIT_FAILED
        else:
            print(f"broker {place}: answers", file=sys.stderr)  # noqa: T201
    return code


async def serve(settings: Settings, shutdown: Shutdown, *, reload: Callable[[], Settings], burst: bool = False) -> int:
    """Run a worker until it is asked to end, or until its queues are empty; returns the exit code."""
    level = log_level(settings.worker.log_level)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(open_broker(settings.broker.url))
        shipper = await stack.enter_async_context(LogShipper(broker))
        worker = Worker(settings.worker, broker, hurry=shutdown.hurry)
        worker.send_logs_to(shipper.put)
        shipping = _ship_own_logs(stack, shipper, worker.name, level)
        prober = Prober(worker, broker)
        agent = await stack.enter_async_context(Agent(settings.worker.log_files, level, shipper))
        await stack.enter_async_context(prober)  # before the worker, so that it tells of the drain, too
        await stack.enter_async_context(worker)
        await stack.enter_async_context(Notifier())
        loop = asyncio.get_running_loop()
        reloader = Reloader(
            settings=settings, load=reload, worker=worker, agent=agent, shipping=shipping, level_of=log_level
        )
        stack.push_async_callback(reloader.stop)
        loop.add_signal_handler(signal.SIGHUP, reloader.request)
        loop.add_signal_handler(signal.SIGUSR1, dump, worker)
        if burst:
            watching = asyncio.create_task(_until_empty(worker, shutdown), name="burst")
            stack.callback(watching.cancel)
        await shutdown.wait(worker.failed)
        code = process.EXIT_FAILED if worker.failed.is_set() else process.EXIT_OK
    return code


def log_level(name: str) -> int:
    """The number of a level. Raises ConfigError when there is none of that name."""
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise ConfigError(f"[worker.log_level] {name!r} is not a level: use DEBUG, INFO, WARNING or ERROR")
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
    """Ask for the end once nothing has been left to do for some looks in a row."""
    quiet = 0
    while quiet < _BURST_LOOKS:
        await asyncio.sleep(_BURST_INTERVAL)
        try:
            waiting = await worker.routes.depth()
        except BrokerError:
            waiting = 1
        quiet = quiet + 1 if worker.idle and not waiting else 0
    shutdown.requested.set()
