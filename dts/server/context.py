"""What handlers work with: one object for the whole process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from dts.broker import Broker
from dts.config import ServerSettings, Settings
from dts.runtime.log_throttle import OutageLog
from dts.server.access.accounts import Accounts
from dts.server.access.limits import Limiter
from dts.server.access.names import Names
from dts.server.audit.log import OperationLog
from dts.server.listen.body_memory import BodyMemory
from dts.server.listen.proxies import Proxies
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.figures import Figures
from dts.server.lookup.fleet import Fleet, LeftRoutes
from dts.server.lookup.hub import Hub
from dts.server.notify.outbox import Outbox
from dts.server.publish.publisher import Publisher
from dts.server.publish.waiting import WhyWaiting
from dts.server.ssh import SshConnections
from dts.store import Store
from dts.wire.seal import Seal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """The services behind the handlers."""

    settings: ServerSettings
    store: Store
    broker: Broker
    accounts: Accounts
    catalogue: Catalogue
    publisher: Publisher
    hub: Hub
    operations: OperationLog
    limiter: Limiter
    names: Names
    bodies: BodyMemory
    proxies: Proxies
    fleet: Fleet
    figures: Figures
    ssh: SshConnections
    openapi: bytes
    outbox: Outbox
    whole_settings: Settings
    seal: Seal
    why_waiting: WhyWaiting
    left_routes: LeftRoutes = field(default_factory=LeftRoutes)
    outages: OutageLog = field(default_factory=lambda: OutageLog(logger, 60.0))
    """Requests that the store or the broker has failed: one log line for all, and one when they are answered again."""
