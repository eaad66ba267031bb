"""`python -m dts.server.daemons`: daemons in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from functools import partial

from dts.broker import Broker, open_broker
from dts.config import Settings
from dts.errors import ConfigError, DtsError, StoreUnavailable
from dts.runtime.fleet_key import find_fleet_key
from dts.runtime.metrics import BROKER_CALLS, time_calls
from dts.runtime.monitor import Monitor
from dts.runtime.options import load_process_settings, process_parser
from dts.runtime.process import EXIT_FAILED, EXIT_OK, Shutdown, run
from dts.server.alerts.dead import watch_dead_letters
from dts.server.daemons import DAEMONS, Daemon, Presence, check_files
from dts.server.record.job_metrics import observe_store
from dts.store import Store, open_store

logger = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  python -m dts.server.daemons -c etc/daemons.toml
  python -m dts.server.daemons -c etc/daemons.toml porter
"""


def main() -> int:
    """Run daemons until told to end."""
    parser = process_parser("python -m dts.server.daemons", "The daemons of DTS.", EXAMPLES)
    parser.add_argument("daemon", nargs="*", help=f"which to run, of {', '.join(DAEMONS)} (default: as configured)")
    options = parser.parse_args()

    async def serve(shutdown: Shutdown) -> int:
        settings = load_process_settings(options, {"daemons": {"run": tuple(options.daemon) or None}})
        for name in settings.daemons.run:
            if name not in DAEMONS:
                raise ConfigError(f"there is no daemon {name}: name some of {', '.join(DAEMONS)}")
        check_files(settings)
        async with AsyncExitStack() as stack:
            daemons = await _start(settings, stack, shutdown)
            await shutdown.wait(*(daemon.failed for daemon in daemons))
            return EXIT_FAILED if any(daemon.failed.is_set() for daemon in daemons) else EXIT_OK

    return run(serve)


async def _start(settings: Settings, stack: AsyncExitStack, shutdown: Shutdown) -> list[Daemon]:
    """Start the configured daemons on the stack; none if the process is told to end before key and store are there."""
    seal = await find_fleet_key(settings, shutdown.requested)
    if seal is None:
        return []
    store = open_store(settings.store.url)
    broker = open_broker(settings.broker.url, settings.broker.routes, seal=seal)
    observe_store(store)
    watch_dead_letters(store)
    time_calls(broker, "broker", BROKER_CALLS)
    await stack.enter_async_context(Monitor(settings.metrics, partial(_missing, store, broker)))
    stack.push_async_callback(store.close)
    stack.push_async_callback(broker.close)
    if not await _wait_for_store(store, shutdown):
        return []
    await broker.start()
    daemons = {name: DAEMONS[name](store, broker, settings) for name in settings.daemons.run}
    for daemon in daemons.values():
        await stack.enter_async_context(daemon)
    await stack.enter_async_context(Presence(broker, daemons))
    logger.info("running %s", ", ".join(settings.daemons.run))
    return list(daemons.values())


async def _missing(store: Store, broker: Broker) -> dict[str, str]:
    """What the daemons cannot work without, and why it is not there."""
    missing = {}
    for name, back_end in (("store", store), ("broker", broker)):
        try:
            await back_end.ping()
        except DtsError as error:
            missing[name] = error.message
    return missing


async def _wait_for_store(store: Store, shutdown: Shutdown) -> bool:
    warned = False
    while not shutdown.requested.is_set():
        try:
            await store.start()
        except StoreUnavailable as error:
            if not warned:
                logger.warning("waiting for the store: %s", error)
                warned = True
            try:
                await asyncio.wait_for(shutdown.requested.wait(), 1.0)
            except TimeoutError:
                continue
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
