"""AdminClient: administration from a program.

async with AdminClient("admin", secret, "http://127.0.0.1:8000") as admin:
    await admin.users.add("alice", secret=new_secret(), namespaces=["text"])
    async for user in admin.users.list(roles="developer"):
        print(user["id"])
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from dts.auth import Credentials
from dts.management.api.alerts import Alerts
from dts.management.api.backup import backup, restore
from dts.management.api.confidential import ConfidentialTransport
from dts.management.api.resources import Dead, Hosts, Jobs, Listing, Operations, Record, Records, Runs, Schedules
from dts.management.api.ssh import Ssh
from dts.management.api.versions import Versions
from dts.model import check_user_id

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 10.0
"""Seconds that a server which is away is waited for, unless told otherwise: somebody sits and waits."""

MAX_CONNECTIONS = 8


class AdminClient:
    """An administrator's connection to a DTS server. Use it in one event loop, and close it (`async with` does).

    `users`, `namespaces`, `functions`, `routes`, `vhosts` and `schedules` are records with `list`, `get`, `add`,
    `update`, `modify` and `delete`, and schedules have `fire` and `firings`; `versions` are the deployed versions
    of functions; `operations` is the log with `list`, `get` and `verify`; `runs` and `jobs` are everybody's,
    `own_runs` and `own_jobs` the caller's; `dead` are the dead letters; `hosts` are the workers' machines, `logs`
    what they log; `alerts` has notices and a test. A secret is sent to another machine over https only, unless the
    client is `insecure`.

    `secrets` are records that are written and not read back. `ssh` works on hosts: commands, and bringing
    them into service.

    Raises:
        ConfigError: `server_url` is not the URL of a server.
        InvalidName: `user_id` cannot be a user's.
    """

    def __init__(
        self,
        user_id: str,
        secret: str,
        server_url: str,
        *,
        give_up_after: float | None = GIVE_UP_AFTER,
        notify: Callable[[str], None] = logger.warning,
        insecure: bool = False,
    ) -> None:
        self.user_id = check_user_id(user_id)
        self.server_url = server_url.rstrip("/")
        self._transport = transport = ConfidentialTransport(
            server_url,
            Credentials(user_id, secret),
            max_clients=MAX_CONNECTIONS,
            give_up_after=give_up_after,
            notify=notify,
        )
        transport.insecure = insecure
        self.users = Records(transport, "/admin/users/")
        self.namespaces = Records(transport, "/admin/namespaces/")
        self.functions = Records(transport, "/admin/functions/")
        self.vhosts = Records(transport, "/admin/vhosts/")
        self.schedules = Schedules(transport)
        self.routes = Records(transport, "/admin/routes/")
        self.secrets = Records(transport, "/admin/secrets/")
        self.ssh = Ssh(transport)
        self.versions = Versions(transport)
        self.operations = Operations(transport)
        self.hosts = Hosts(transport)
        self.logs = Listing(transport, "/admin/logs/")
        self.runs = Runs(transport)
        self.own_runs = Runs(transport, own=True)
        self.jobs = Jobs(transport)
        self.own_jobs = Jobs(transport, own=True)
        self.dead = Dead(transport)
        self.alerts = Alerts(transport)

    async def login(self) -> Record:
        """Make sure that the server knows these credentials; returns the caller's own user record.

        Nothing is kept at the server: each request is signed by itself.

        Raises:
            RequestRefused: name or secret is wrong, or the clocks differ too much (status 401).
            ServerUnavailable: the server cannot be reached.
        """
        return cast(Record, await self._transport.call("GET", "/whoami"))

    async def change_secret(self, secret: str, *, grace: float | None = None) -> Record:
        """Give oneself a new secret; the one in use stays valid for `grace` seconds, None for the server's default.

        This client goes on with the old one: make a new client.
        """
        params: dict[str, Any] = {"secret": secret} if grace is None else {"secret": secret, "grace": grace}
        return cast(Record, await self._transport.call("PATCH", "/whoami", params, repeatable=False))

    async def statistics(self, function: str, **query: object) -> Record:
        """What became of a function's attempts: `step` and `rows`; `since`, `until` (epoch) and `step` in seconds.

        Raises:
            RequestRefused: an argument is wrong (400), or the caller may not see it (403).
        """
        plain = {name: str(value) for name, value in query.items() if value is not None}
        found = await self._transport.call("GET", "/admin/statistics/", query={"function": function, **plain})
        return cast(Record, found)

    async def backup(self, path: Path, *, runs: bool = False) -> int:
        """Write all that administrators keep to a file, see `api.backup`; returns how many rows it has."""
        return await backup(self._transport, path, runs=runs)

    async def restore(self, path: Path) -> Record:
        """Put a backup into the server's store, see `api.backup`; returns how much of each kind was put there."""
        return await restore(self._transport, path)

    async def diagnose(self) -> Record:
        """What the server finds when it looks at its store, broker, queues and functions.

        Raises:
            RequestRefused: the caller may not see it (403), or the server is one that cannot tell (404).
        """
        return cast(Record, await self._transport.call("GET", "/admin/diagnosis"))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
