"""What SIGHUP does: the configuration is read again, and what has changed takes effect while the worker goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec.structs import replace

from dts.config import Settings, WorkerSettings
from dts.errors import ConfigError
from dts.worker.command.systemd import Notifier
from dts.worker.telemetry.agent import Agent
from dts.worker.telemetry.shipping import ShippingHandler
from dts.worker.worker import Worker

logger = logging.getLogger("dts.worker")


class Reloader:
    """Takes over settings into a running worker.

    `load` reads them, and sets the level of this process's own log. `check` raises ConfigError when they are wrong,
    else it returns the number of their level of logs.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        load: Callable[[], Settings],
        check: Callable[[WorkerSettings], int],
        worker: Worker,
        agent: Agent,
        shipping: ShippingHandler,
        notifier: Notifier,
    ) -> None:
        self._settings, self._load = settings, load
        self._worker, self._agent, self._shipping, self._check = worker, agent, shipping, check
        self._notifier = notifier
        self._at_it: asyncio.Task[None] | None = None
        self._again = False

    def request(self) -> None:
        """Reload soon. What is asked for meanwhile is done once more after it."""
        self._again = True
        if self._at_it is None or self._at_it.done():
            self._at_it = asyncio.create_task(self._reload_all(), name="reload")

    async def stop(self) -> None:
        """Begin no other reload, and wait for the end of one that has begun."""
        self._again = False
        if self._at_it is not None:
            await asyncio.wait([self._at_it])

    async def _reload_all(self) -> None:
        while self._again:
            self._again = False
            self._notifier.tell_reloading()
            try:
                await self._reload()
            except ConfigError as error:
                logger.error("the configuration was not reloaded: %s", error.message)
            except Exception:  # the worker goes on, and the next reload may complete what this one has left half done
                logger.exception("the configuration was reloaded in part")
            finally:
                self._notifier.notify("READY=1")

    async def _reload(self) -> None:
        """Raises ConfigError when the new settings are not valid; then all is as it was."""
        settings = self._load()
        logging.getLogger().addHandler(self._shipping)  # setting up the log anew has taken it away
        level = self._check(settings.worker)
        changed = changes(self._settings, settings)
        await self._worker.adopt(settings.worker)
        self._shipping.setLevel(level)
        self._agent.follow(settings.worker.log_files, level)
        # What needs a restart is compared with the settings of the start, so that each reload logs it again.
        restart = [name for name in changed if name in NEED_RESTART]
        live = [name for name in changed if name not in NEED_RESTART]
        logger.info("the configuration was reloaded; changed: %s", ", ".join(live) or "nothing")
        if restart:
            logger.warning("of the configuration, these take effect with a restart only: %s", ", ".join(restart))
        self._settings = replace(
            settings,
            broker=self._settings.broker,
            fleet=self._settings.fleet,
            metrics=self._settings.metrics,
            worker=replace(
                settings.worker, name=self._settings.worker.name, child_user=self._settings.worker.child_user
            ),
        )


NEED_RESTART = ("broker.url", "fleet.key_file", "metrics.host", "metrics.port", "worker.child_user", "worker.name")
"""Settings that a running worker keeps."""


def changes(old: Settings, new: Settings) -> list[str]:
    """The names of the settings of a worker that differ, such as `worker.processes`."""
    found = []
    for section in ("broker", "fleet", "metrics", "logging", "worker"):
        before, after = getattr(old, section), getattr(new, section)
        names = before.__struct_fields__
        found += [f"{section}.{name}" for name in names if getattr(before, name) != getattr(after, name)]
    return found
