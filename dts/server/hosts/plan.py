"""What a host is to have: its folders, and the files that a worker reads there."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from dts.config import Settings
from dts.errors import HostError, InvalidInput
from dts.model import DEFAULT_ROUTE, VirtualHost
from dts.server.ssh.credentials import has_credentials

ServiceKind = Literal["auto", "systemd", "process"]


class InstallOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How DTS is installed on a host. Kept there, so that the next `init` or `upgrade` does it in the same way.

    `python` is the interpreter; empty for the newest that is found. `index_url` and `pip_args` are for pip. `packages`
    is a folder on the host that has the packages which DTS needs, for hosts without a way to an index: pip is not
    asked then. `service` says what keeps the worker running.
    """

    python: str = ""
    index_url: str = ""
    pip_args: tuple[str, ...] = ()
    packages: str = ""
    service: ServiceKind = "auto"

    def over(self, kept: InstallOptions) -> InstallOptions:
        """These, with what was kept where they say nothing."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) not in _NOTHING}
        return msgspec.structs.replace(kept, **given)


_NOTHING: tuple[object, ...] = ("", (), "auto")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things are on a host, below the home of the user that is logged in as."""

    root: str

    @property
    def key(self) -> str:
        """The fleet's key."""
        return f"{self.root}/var/fleet.key"

    @property
    def settings(self) -> str:
        """The worker's settings."""
        return f"{self.root}/etc/worker.toml"

    @property
    def options(self) -> str:
        """How DTS was installed."""
        return f"{self.root}/etc/install.json"

    @property
    def current(self) -> str:
        """The link to the environment in use."""
        return f"{self.root}/current"

    def environment(self, name: str) -> str:
        """An environment."""
        return f"{self.root}/envs/{name}"


def environment_id(*parts: object) -> str:
    """The name of the environment that is made of these: the same for the same."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def split_credentials(words: Sequence[str]) -> tuple[list[str], str]:
    """Arguments of pip that anybody on the host may see, and those with credentials as a requirements file has them.

    Raises:
        InvalidInput: one with credentials cannot be in such a file.
    """
    open_words: list[str] = []
    lines = []
    for word in words:
        before = open_words[-1] if open_words else ""
        option = word.partition("=")[0] if word.startswith("-") else ""
        if not has_credentials(word):
            open_words.append(word)
        elif (option and option not in _IN_A_FILE) or (not option and before == "--proxy"):
            raise InvalidInput(
                "pip_args: everybody on the host could see the password in an argument of pip: write it into pip.conf "
                f"there. Only {', '.join(_IN_A_FILE)} may have one"
            )
        elif not option and before in _IN_A_FILE:
            lines.append(f"{open_words.pop()} {word}")
        else:
            lines.append(word)
    return open_words, "".join(f"{line}\n" for line in lines)


_IN_A_FILE = (
    "--index-url",
    "-i",
    "--extra-index-url",
    "--find-links",
    "-f",
    "--requirement",
    "-r",
    "--constraint",
    "-c",
)
"""Options of pip and uv that a requirements file may have as well."""


def worker_toml(host: VirtualHost, settings: Settings) -> str:
    """The settings of the worker on a host.

    Raises:
        HostError: the server's queues cannot be reached from there.
    """
    url = settings.fleet.broker_url or settings.broker.url
    check_reachable(host, url)
    routes = "".join(
        f"\n[[broker.route]]\nname = {_text(name)}\nurl = {_text(each)}\n"
        for name, each in settings.broker.routes.items()
    )
    fetching = f"server_url = {_text(settings.fleet.server_url)}\n" if settings.fleet.server_url else ""
    served = list(host.routes or (DEFAULT_ROUTE,))
    return (
        "# Written by `vhosts init`, which writes it anew each time.\n"
        f"[broker]\nurl = {_text(url)}\n{routes}"
        '\n[fleet]\nkey_file = "var/fleet.key"\n'
        f"\n[worker]\nname = {_text(host.id)}\nfunctions = {_text(host.functions_dir)}\n"
        f"routes = [{', '.join(map(_text, served))}]\n{fetching}"
    )


def check_reachable(host: VirtualHost, url: str) -> None:
    """Make sure that a worker on a host can mean the same queues by a URL as the server does.

    Raises:
        HostError: it cannot; the message says which setting is to be changed.
    """
    if _is_local(host.address or host.id):
        return
    parts = urlsplit(url)
    if parts.scheme.startswith("sqlite") or any(map(_is_local, _hosts(parts.netloc))):
        raise HostError(
            f"the server's queues are on its own machine, where the worker on {host.id} cannot reach them: give "
            "RabbitMQ's URL as other hosts have it, in [fleet] broker_url or [broker] url of the server"
        )


def _hosts(netloc: str) -> list[str]:
    return [each.rsplit(":", 1)[0].strip("[]") for each in netloc.rpartition("@")[2].split(",")]


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") in ("localhost", "ip6-localhost")


def systemd_unit(folders: Folders, user: str, host: VirtualHost) -> str:
    """The unit that keeps a worker running.

    Raises:
        HostError: the home directory has characters that no unit can have.
    """
    root = folders.root.replace("%", "%%")
    if any(character in root for character in '"\\\n'):
        raise HostError(f"{host.id}: the home directory {folders.root!r} cannot be written into a unit of systemd")
    return (
        "[Unit]\nDescription=DTS worker\nAfter=network-online.target\nWants=network-online.target\n\n"
        f'[Service]\nUser={user}\nWorkingDirectory={root}\nExecStart="{root}/current/bin/python" -m dts.worker '
        "-c etc/worker.toml\nRestart=always\nRestartSec=1\nKillMode=mixed\nTimeoutStopSec=300\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def read_options(text: bytes | None) -> InstallOptions:
    """The options that a host has kept; the defaults if it has none that can be read."""
    try:
        return msgspec.json.decode(text or b"{}", type=InstallOptions)
    except msgspec.MsgspecError:
        return InstallOptions()


def _text(value: str) -> str:
    """A text as TOML has it: JSON's strings are TOML's, but for one character that no setting may have.

    Raises:
        InvalidInput: it has that one.
    """
    if "\x7f" in value:
        raise InvalidInput(f"{value[:40]!r} has a control character in it")
    return json.dumps(value, ensure_ascii=False)
