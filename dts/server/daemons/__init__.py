"""The daemons: each a service that consumes a queue or keeps the record in order; in the server or on their own."""

from dts.server.daemons._base import Daemon
from dts.server.daemons.porter import Porter
from dts.server.daemons.timekeeper import Timekeeper

DAEMONS: dict[str, type[Daemon]] = {"porter": Porter, "timekeeper": Timekeeper}

__all__ = ["DAEMONS", "Daemon", "Porter", "Timekeeper"]
