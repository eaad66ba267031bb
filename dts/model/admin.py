"""What administrators keep: users, namespaces, functions, hosts, and the log of what they did.

All but the log are records: they have an id and a version that goes up by one with every change. Times are in seconds
since the epoch, durations in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dts.model.alerts import AlertRule, Silence
from dts.model.attempts import AttemptOptions
from dts.model.secrets import Secret

DEFAULT_ROUTE = "default"
"""Where a function's jobs go unless its record says otherwise."""

DEFAULT_PRIORITY = 5
"""The priority of a function's jobs unless its record, or they themselves, say otherwise."""

ADMINISTRATOR = "administrator"
"""The role that may do everything."""

ANY_NAMESPACE = "*"
"""In a user's namespaces: all of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user, a namespace or a function may take; None is no limit.

    `unfinished` jobs that are accepted and have not ended; `requests_per_second`; `running` jobs at work at once;
    `priority` the highest that jobs have, whatever they ask for; `retention` is for how long a run is kept after it has
    finished. Of a function alone: `starts_per_second` of its jobs; `key`, a place in their arguments, and how many with
    the same value there may run at once and start a second.
    """

    unfinished: int | None = None
    requests_per_second: float | None = None
    running: int | None = None
    priority: int | None = None
    retention: float | None = None
    starts_per_second: float | None = None
    key: str | None = None
    key_running: int | None = None
    key_starts_per_second: float | None = None

    @property
    def metered(self) -> bool:
        """Whether jobs may have to wait for others before they begin."""
        return self.running is not None or self.starts_per_second is not None or self.keyed

    @property
    def keyed(self) -> bool:
        """Whether they may have to wait for others with the same key."""
        return self.key is not None and (self.key_running is not None or self.key_starts_per_second is not None)


@dataclass(frozen=True, slots=True)
class User:
    """Someone who signs requests.

    `weight` is their share of the work of a namespace, beside other users; none of their jobs is published while they
    are `paused`. `key` is the signing key, derived from id and secret and encrypted with the server's key file: a store
    never sees the secret, nor a key that it could use. `previous_key` is accepted, too, until `previous_until`.
    """

    id: str
    key: bytes
    roles: frozenset[str] = frozenset({"user"})
    created: float = 0.0
    namespaces: tuple[str, ...] = ()
    email: str = ""
    disabled: bool = False
    limits: Limits = field(default_factory=Limits)
    previous_key: bytes = b""
    previous_until: float | None = None
    weight: float = 1.0
    paused: bool = False
    modified: float = 0.0
    version: int = 1

    @property
    def is_administrator(self) -> bool:
        """Whether this user may do everything."""
        return ADMINISTRATOR in self.roles and not self.disabled

    def belongs_to(self, namespace: str) -> bool:
        """Whether a namespace is one of this user's own."""
        return namespace in self.namespaces or ANY_NAMESPACE in self.namespaces


@dataclass(frozen=True, slots=True)
class Namespace:
    """A group of functions that belong together. `weight` is its share of the work, beside other namespaces.

    While it is `paused`, no jobs of its functions are published.
    """

    id: str
    description: str = ""
    limits: Limits = field(default_factory=Limits)
    weight: float = 1.0
    paused: bool = False
    created: float = 0.0
    modified: float = 0.0
    version: int = 1


@dataclass(frozen=True, slots=True)
class Function(AttemptOptions):
    """Registered code, `ns/func`.

    `mean_duration` is that of recent attempts; None before the first. `concurrent` says that attempts share a child
    (`async def`), so that many take as long as one. An option that is None is as the worker's settings say.
    `priority` is that of jobs which ask for none; while it is `paused`, its jobs are accepted and not published.
    `left_routes` are those that it had before, the latest first: what was queued there stays there. `deployed` is the
    hash of the version that was deployed last, `pinned` of one that runs whatever is deployed; empty for none.
    For `memo` seconds, what a job gave is the result of every job with the same arguments, which is not run. For
    `unique` seconds, a user's job with the same arguments is the same job.
    `secrets` are those of its namespace, encrypted for workers; what is looked up has them, not what is stored.
    """

    name: str
    description: str = ""
    route: str = DEFAULT_ROUTE
    created: float = 0.0
    mean_duration: float | None = None
    concurrent: bool = False
    enabled: bool = True
    paused: bool = False
    priority: int = DEFAULT_PRIORITY
    limits: Limits = field(default_factory=Limits)
    modified: float = 0.0
    version: int = 1
    left_routes: tuple[str, ...] = ()
    deployed: str = ""
    pinned: str = ""
    memo: float | None = None
    unique: float | None = None
    secrets: str = ""

    @property
    def active_version(self) -> str:
        """The hash of the version that new jobs run; empty for what workers have in their functions folders."""
        return self.pinned or self.deployed

    @property
    def id(self) -> str:
        """The name, by which a function is found like any other record."""
        return self.name

    @property
    def namespace(self) -> str:
        """The namespace that the function is in."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """A host of the fleet that is reachable by ssh. Its keys and their passphrase are encrypted as users' keys are.

    `host_key` is the host's own public key, as a line of known_hosts has it.
    """

    id: str
    address: str = ""
    port: int = 22
    ssh_user: str = "dts"
    ssh_key: bytes = b""
    ssh_pem_cert: bytes = b""
    ssh_passphrase: bytes = b""
    host_key: str = ""
    functions_dir: str = ""
    routes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    description: str = ""
    created: float = 0.0
    modified: float = 0.0
    version: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """When jobs of a function are submitted on behalf of a user.

    One of three says when: `cron` (five fields, in the time zone `tz`), `every` (seconds, counted from `created`), or
    `at` (seconds since the epoch, once). `jitter` delays each firing by up to so many seconds, always the same for the
    same time. `overlap` says what a firing does while the run of the one before has not finished: `skip`, `queue`,
    `cancel` or `allow`. Firings that are late by more than `catch_up` seconds are missed. `work` is what is submitted,
    as JSON: `args` and `kwargs` of one job, or `lines`, each the only argument of a job.
    """

    id: str
    user: str
    function: str
    cron: str = ""
    tz: str = "UTC"
    every: float | None = None
    at: float | None = None
    jitter: float = 0.0
    overlap: str = "skip"
    catch_up: float = 3600.0
    paused: bool = False
    description: str = ""
    work: bytes = b""
    created: float = 0.0
    modified: float = 0.0
    version: int = 1


ALL_ROUTES = "*"
"""The id of the record that holds for every route, besides its own."""


@dataclass(frozen=True, slots=True)
class Route:
    """What is set of a route, or of ALL_ROUTES; most have no record. Nothing is published there while `paused`."""

    id: str
    description: str = ""
    limits: Limits = field(default_factory=Limits)
    paused: bool = False
    created: float = 0.0
    modified: float = 0.0
    version: int = 1


Record = User | Namespace | Function | VirtualHost | Schedule | Route | AlertRule | Silence | Secret


@dataclass(frozen=True, slots=True)
class Operation:
    """An entry of the operation log: who did what to which record, from where, and what came of it.

    `ops` is the change as it was asked for, secrets masked. `begun` is the number of the entry that was written
    before the change, in the one that was written after it. `seq` counts from 1 without gaps; `previous` is the
    `hash` of the entry before; these three are filled in when the entry is appended.
    """

    timestamp: float
    operator: str
    address: str
    op_type: str
    doc_id: str
    ops: Mapping[str, Any]
    outcome: str
    begun: int | None = None
    seq: int = 0
    previous: str = ""
    hash: str = ""

    def canonical(self) -> bytes:
        """All that the hash covers, always as the same bytes: everything but the hash itself."""
        fields = asdict(self)
        del fields["hash"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


LAST_OPERATION = 10**15 - 1
"""The greatest number that an entry of the operation log can have."""


@dataclass(frozen=True, slots=True)
class KeptOperation:
    """What a store keeps among the entries of the operation log; `damage` is how it is not as it was put there.

    `entry` is None for what has no number that an entry can have; `seq` is 0 then, unless it is another whole number.
    """

    seq: int
    entry: Operation | None
    damage: str = ""


Seal = Callable[[Operation], str]
"""Gives the hash of an entry whose `seq` and `previous` are filled in."""
