"""Settings: from a TOML file, the environment and defaults to one frozen object per process, validated.

Precedence, highest first: a command's flag, `DTS_<SECTION>_<KEY>` in the environment, the file (with its `[dev]` table
laid over it when asked for), the default. An unknown key is refused by name, so that a typing error is never a
silently ignored setting.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from dts.errors import ConfigError
from dts.model.ranges import MAX_NUMBER, SECONDS

ENVIRONMENT_PREFIX = "DTS_"

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=SECONDS.high)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=SECONDS.high)]
Count = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
NumberOrNone = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Percent = Annotated[float, Meta(ge=0, le=100)]
HostName = Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$")]
MailAddress = Annotated[str, Meta(pattern=r"^[!-?A-~]+@[!-?A-~]+$", max_length=320)]
Route = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]


class StoreSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the record is kept."""

    url: str = "sqlite:///var/store.db"


class RouteBroker(Struct, frozen=True, forbid_unknown_fields=True):
    """The broker that the jobs of a route are with."""

    name: Route
    url: str


class BrokerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the queues are. `route` has the routes whose jobs are with a broker of their own.

    Raises:
        ValueError: a route is there twice.
    """

    url: str = "sqlite:///var/queue.db"
    route: tuple[RouteBroker, ...] = ()

    def __post_init__(self) -> None:
        if len(self.routes) < len(self.route):
            raise ValueError("a route is there twice")

    @property
    def routes(self) -> dict[str, str]:
        """The URLs of brokers by route."""
        return {route.name: route.url for route in self.route}


class FleetSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What servers, daemons and workers have in common: the file with the key that their messages are sealed with.

    Unless it is named it is `fleet.key` beside the server's `key_file`. `broker_url` is the broker's URL as those hosts
    have it that the server brings into service; empty for the server's own. They fetch versions of functions from
    `server_url`; empty for no server.
    """

    key_file: Path | None = None
    broker_url: str = ""
    server_url: str = ""


class LoggingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, to stderr, and whether as lines of text or of JSON."""

    level: str = "INFO"
    format: Literal["text", "json"] = "text"


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a worker or a process of daemons answers for its figures and its health; with port 0 nowhere.

    The server does so at its own port.
    """

    host: str = "127.0.0.1"
    port: Port = 0


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The REST server. Sizes are in bytes, `slice_seconds` is the work that one message should hold.

    `names` are the hosts, with or without a port, that clients reach the server by besides its own address and this
    machine's name; `trusted_proxies` are addresses or networks of proxies whose X-Forwarded-For is believed;
    `base_path` is what all paths begin with, where a proxy in front leaves that in them.
    `secret_grace` is for how many seconds a secret is still accepted after another one has taken its place.
    `functions` is a functions directory whose functions are registered without an administrator; empty for none.
    `daemons` names those that run inside the server, separated by spaces: `all`, `none`, or `auto` for all of them
    when the broker is embedded and none otherwise. Jobs whose timeout is over `lease_after` seconds run under a lease;
    with `lease_unlimited` those that have no timeout, too. `default_timeout` is that of jobs for which neither they nor
    their function say one; without it they have none. What is between `max_connections` and `body_memory` keeps
    clients from taking the server down: docs/security.md says how.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    daemons: str = "auto"
    functions: str = ""
    names: tuple[HostName, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    base_path: Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    block_size: Annotated[int, Meta(ge=1, le=2048)] = 2048
    max_body: Annotated[int, Meta(ge=1024, le=12 * 1024 * 1024)] = 8 * 1024 * 1024
    slice_seconds: Seconds = 0.05
    max_slice: Annotated[int, Meta(ge=1, le=256)] = 256
    key_file: Path = Path("var/server.key")
    admin_secret_file: Path = Path("var/admin.secret")
    secret_grace: Annotated[float, Meta(ge=0)] = 24 * 3600.0
    shutdown_timeout: Seconds = 10.0
    max_connections: Count = 10_000
    unsigned_per_address: Count = 1_000
    head_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0
    body_rate: Seconds = 4096.0
    idle_timeout: Seconds = 120.0
    body_memory: Annotated[int, Meta(ge=16 * 1024 * 1024)] = 64 * 1024 * 1024
    lease_after: Seconds = 1200.0
    lease_unlimited: bool = False
    default_timeout: Seconds | None = None

    def __post_init__(self) -> None:
        for each in self.trusted_proxies:
            try:
                ip_network(each, strict=False)
            except ValueError:
                raise ValueError(f"trusted_proxies: {each!r} is neither an IP address nor a network") from None


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A route with a broker or a prefetch of its own; what is empty or 0 is as for the others."""

    name: Route
    broker: str = ""
    prefetch: NumberOrNone = 0


class WorkerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A worker. `processes` 0 is one child a processor; `functions` empty means the bundled functions directory.

    Deployed versions of functions are kept in the folder `versions`; one that is missing is fetched from `server_url`.
    Children run as `child_user`, for which the worker must run as root; empty for the worker's own user.

    Sizes are in bytes, times in seconds; 0 stands for no limit. What is below `drain_timeout` has its place in
    docs/worker.md. `soft_timeout` to `recycle_after` hold for functions and jobs that do not say otherwise.
    """

    name: str = ""
    processes: Annotated[int, Meta(ge=0, le=1024)] = 0
    functions: str = ""
    routes: tuple[Route, ...] = ("default",)
    route: tuple[RouteSettings, ...] = ()
    concurrency: Count = 100
    batch: Annotated[int, Meta(ge=1, le=256)] = 256
    drain_timeout: Seconds = 30.0
    max_result: Annotated[int, Meta(ge=1024, le=12 * 1024 * 1024)] = 8 * 1024 * 1024
    soft_timeout: SecondsOrNone = 0.0
    timeout: SecondsOrNone = 0.0
    max_attempts: Count = 1
    retry_on: tuple[str, ...] = ()
    memory_limit: NumberOrNone = 0
    recycle_after: NumberOrNone = 0
    retry_limit: Count = 10
    backoff_base: Seconds = 1.0
    backoff_cap: Seconds = 600.0
    poison_after: Count = 3
    split_after: Seconds = 0.1
    slice_seconds: Seconds = 0.05
    cancel_grace: Seconds = 1.0
    timekeeper_timeout: SecondsOrNone = 30.0
    blocked_after: Seconds = 1.0
    lease: Annotated[float, Meta(ge=1, le=7 * 86400)] = 60.0
    recycle_rss: NumberOrNone = 0
    warm_children: Annotated[int, Meta(ge=0, le=1024)] = 128
    max_partials: NumberOrNone = 256 * 1024
    heartbeat: Seconds = 5.0
    min_memory_percent: Percent = 4.0
    min_disk_percent: Percent = 2.0
    log_level: str = "WARNING"
    job_log_level: str = "INFO"
    log_files: tuple[str, ...] = ()
    child_user: str = ""
    versions: str = "var/versions"
    server_url: str = ""
    server_ca: str = ""
    installer_options: tuple[str, ...] = ()


class DaemonsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The daemons. Times are in seconds.

    `relay_after` is for how long a server that has died is taken to publish what it accepted, before timekeeper does;
    every `retention_interval` that looks for runs that are kept no longer. After `repair_after` it takes a job for lost
    that nobody has, see docs/administration.md. Stethoscope mails when cpu, memory or disk of a host have been over
    their percentage for `high_for`, and when a host was silent for `silence`; workers that were silent for
    `forget_hosts` are forgotten. Timekeeper keeps the latest `keep_dead` dead letters for `keep_dead_for`. Logtracer
    keeps `keep_logs` records for `keep_logs_for`. Of those at `log_mail_level` or above there is a notice, and another
    one for what follows in `log_mail_interval`. The alert rules are evaluated every `alert_interval`.
    """

    run: tuple[str, ...] = ("porter", "timekeeper", "stethoscope", "logtracer")
    relay_after: Seconds = 10.0
    relay_interval: Seconds = 0.5
    repair_after: Annotated[float, Meta(ge=1)] = 60.0
    retention_interval: Seconds = 60.0
    silence: Seconds = 30.0
    forget_hosts: Seconds = 7 * 86400.0
    max_cpu: Percent = 95.0
    max_memory: Percent = 90.0
    max_disk: Percent = 90.0
    high_for: Annotated[float, Meta(ge=0)] = 60.0
    keep_dead: Count = 10_000
    keep_dead_for: Seconds = 30 * 86400.0
    keep_logs: Count = 1_000_000
    keep_logs_for: Seconds = 30 * 86400.0
    log_mail_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "ERROR"
    log_mail_interval: Annotated[float, Meta(ge=0)] = 300.0
    alert_interval: Seconds = 5.0


class MailSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where mails go: a mail server, who sends, and who is notified. `ca_file` has the certificates, in
    PEM, that the server's is checked by, if not by those of the system. With no `host`, or nobody in `to`, mails are
    log messages.
    """

    host: str = ""
    port: Port = 25
    security: Literal["none", "starttls", "tls"] = "none"
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    sender: MailAddress = "dts@localhost"
    to: tuple[MailAddress, ...] = ()


class NotifySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Notices: `url` is where people reach the server, for links; `allow` are networks and addresses that webhooks may
    have besides those of the internet. What cannot be delivered is tried for `give_up_after` seconds.

    Raises:
        ValueError: `allow` has something else in it.
    """

    url: Annotated[str, Meta(pattern=r"^(https?://[!-~]+)?$")] = ""
    allow: tuple[str, ...] = ()
    give_up_after: Seconds = 3 * 86400.0

    def __post_init__(self) -> None:
        for each in self.allow:
            try:
                ip_network(each, strict=False)
            except ValueError:
                raise ValueError(f"allow: {each!r} is neither an IP address nor a network") from None


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All sections. A process reads the ones that concern it; one file may serve them all."""

    store: StoreSettings = field(default_factory=StoreSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    daemons: DaemonsSettings = field(default_factory=DaemonsSettings)
    mail: MailSettings = field(default_factory=MailSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)

    @property
    def fleet_key_file(self) -> Path:
        """Where the fleet's key is."""
        return self.fleet.key_file or self.server.key_file.with_name("fleet.key")


def load_config_file(path: str | os.PathLike[str] | None, *, dev: bool = False) -> dict[str, Any]:
    """The tables of a TOML file, with its `[dev]` table laid over them when `dev` is set; {} without a file.

    Raises:
        ConfigError: the file cannot be read, or is not TOML; the message names the file and the place.
    """
    if path is None:
        return {}
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    overlay = tables.pop("dev", {})
    if not isinstance(overlay, Mapping):
        raise ConfigError(f"configuration in {path}: [dev] must be a table with sections in it, such as [dev.server]")
    if dev:
        _lay_over(tables, overlay)
    return tables


def load_settings(
    path: str | os.PathLike[str] | None = None,
    *,
    dev: bool = False,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """The settings of a process. `flags` are sections with the keys that were given on the command line.

    Raises:
        ConfigError: naming the key that is unknown or the value that is wrong, and where it came from.
    """
    file_tables = load_config_file(path, dev=dev)
    _convert(file_tables, f"in {path}")
    tables = {name: dict(table) for name, table in file_tables.items()}
    _lay_over(tables, _from_environment(os.environ if environment is None else environment))
    _lay_over(tables, flags or {})
    return _convert(tables, "in the environment or on the command line", strict=False)


def _convert(tables: Mapping[str, Any], where: str, *, strict: bool = True) -> Settings:
    try:
        return msgspec.convert(tables, Settings, strict=strict, dec_hook=_convert_path)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        key = place.rstrip("`").lstrip(".")
        raise ConfigError(f"configuration {where}: {f'[{key}] ' if key else ''}{reason}") from error


def _convert_path(kind: type, value: object) -> object:
    """Paths are written as strings; everything else msgspec knows."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`DTS_STORE_URL=…` as {"store": {"url": …}}; what names no section of ours is passed over."""
    tables: dict[str, dict[str, Any]] = {}
    for section in Settings.__struct_fields__:
        prefix = f"{ENVIRONMENT_PREFIX}{section.upper()}_"
        for name, value in environment.items():
            if name.startswith(prefix) and name not in _OF_CLIENTS:
                key = name.removeprefix(prefix).lower()
                listed = (section, key) in _LISTS
                tables.setdefault(section, {})[key] = tuple(value.split()) if listed else value
    return tables


_OF_CLIENTS = frozenset({"DTS_SERVER_URL"})
"""Variables that look like settings of a process, and tell dts-client and dts-admin where the server is."""

_LISTS = {
    ("server", "names"),
    ("server", "trusted_proxies"),
    ("worker", "routes"),
    ("worker", "retry_on"),
    ("worker", "log_files"),
    ("worker", "installer_options"),
    ("daemons", "run"),
    ("mail", "to"),
    ("notify", "allow"),
}


def _lay_over(tables: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Put the keys of `overlay` over those in `tables`, table by table."""
    for name, table in overlay.items():
        if isinstance(table, Mapping) and isinstance(tables.get(name), dict):
            tables[name] = {**tables[name], **table}
        else:
            tables[name] = dict(table) if isinstance(table, Mapping) else table
