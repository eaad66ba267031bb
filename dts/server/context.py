"""What handlers work with: one object for the whole process."""

from __future__ import annotations

from dataclasses import dataclass, field

from dts.broker import Broker
from dts.config import ServerSettings
from dts.server.accounts import Accounts
from dts.server.catalogue import Catalogue
from dts.server.fleet import Fleet, LeftRoutes
from dts.server.hub import Hub
from dts.server.limits import Limiter
from dts.server.operations import OperationLog
from dts.server.publisher import Publisher
from dts.server.recent import Recent
from dts.server.seldom import Seldom
from dts.store import Store


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
    fleet: Fleet
    openapi: bytes
    left_routes: LeftRoutes = field(default_factory=LeftRoutes)
    recent: Recent = field(default_factory=Recent)
    outages: Seldom = field(default_factory=Seldom)
