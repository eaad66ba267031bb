"""The daemons: each a service that consumes a queue or keeps the record in order; in the server or on their own."""

from dts.server.daemons._base import Daemon, check_files
from dts.server.daemons.logtracer import Logtracer
from dts.server.daemons.porter import Porter
from dts.server.daemons.presence import Presence, daemons_present
from dts.server.daemons.stethoscope import Stethoscope
from dts.server.daemons.timekeeper import Timekeeper

DAEMONS: dict[str, type[Daemon]] = {
    "porter": Porter,
    "stethoscope": Stethoscope,
    "logtracer": Logtracer,
    "timekeeper": Timekeeper,
}

__all__ = [
    "DAEMONS",
    "Daemon",
    "Logtracer",
    "Porter",
    "Presence",
    "Stethoscope",
    "Timekeeper",
    "check_files",
    "daemons_present",
]
