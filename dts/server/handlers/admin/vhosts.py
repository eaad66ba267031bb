"""`/admin/vhosts/`: hosts of the fleet that are reachable by ssh."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta, Struct

from dts.model import VirtualHost, check_host_id
from dts.model.ranges import PORT
from dts.server.consts import ErrorCode
from dts.server.handlers import validation_messages
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import GroupName, KeyText, RouteName, Text, changes, filters, initial, view
from dts.server.handlers.errors import ApiError
from dts.server.ssh import HostKey

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z){_LABEL}(\.{_LABEL})*\.?")
"""A name as in DNS (RFC 1123, 2.1), with the underscores that some networks have."""

_KEYS = {"ssh_key": KeyText, "ssh_pem_cert": KeyText, "ssh_passphrase": KeyText}
_SHOWN = {f"has_{name}" for name in _KEYS}


class VirtualHostFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of a host."""

    address: Annotated[str, Meta(max_length=255)] = ""
    port: Annotated[int, Meta(ge=int(PORT.low), le=int(PORT.high))] = 22
    ssh_user: Annotated[str, Meta(pattern=validation_messages.SSH_USER)] = "dts"
    host_key: Annotated[str, Meta(max_length=10_000)] = ""
    functions_dir: Annotated[str, Meta(max_length=4096, pattern=validation_messages.FOLDER)] = ""
    routes: tuple[RouteName, ...] = ()
    groups: tuple[GroupName, ...] = ()
    description: Text = ""


VirtualHostView = view(
    "VirtualHostView",
    VirtualHostFields,
    dict.fromkeys(sorted(_SHOWN), bool),
    "A host as answered: nothing of its keys but whether there are any.",
)


class VirtualHosts(Resource[VirtualHost]):
    """Hosts."""

    name = "vhosts"
    kind = VirtualHost
    fields = VirtualHostFields
    initial = initial("VirtualHostInitial", VirtualHostFields, {"id": str}, _KEYS)
    changes = changes("VirtualHostChanges", VirtualHostFields, {name: kind | None for name, kind in _KEYS.items()})
    view = VirtualHostView
    filters = filters("VirtualHostFilters", VirtualHostView, without=_SHOWN)
    write_only = frozenset(_KEYS)

    def check_id(self, record_id: object) -> str:
        return check_host_id(record_id)

    def write_secrets(self, record: VirtualHost, secrets: Mapping[str, Any]) -> VirtualHost:
        seal = self.context.accounts.keys.seal
        sealed: dict[str, Any] = {
            name: seal(text.encode(), f"vhosts/{record.id}/{name}") if text else b"" for name, text in secrets.items()
        }
        return replace(record, **sealed, address=record.address or record.id)

    async def check_allowed(self, record: VirtualHost, before: VirtualHost | None) -> None:
        if record.address != record.id:
            check_address(record.address)
        if record.host_key and (before is None or record.host_key != before.host_key):
            HostKey.parse(record.host_key)

    def extra(self, record: VirtualHost) -> dict[str, Any]:
        return {f"has_{name}": bool(getattr(record, name)) for name in _KEYS}


def check_address(given: str) -> None:
    """Make sure that ssh can connect to an address, and that it can be taken for nothing else.

    Raises:
        ApiError: it is neither the name of a host nor an IP address.
    """
    if not (_HOST_NAME.fullmatch(given) or _is_ip_address(given)):
        message = f"address: {given[:80]!r} is neither the name of a host nor an IP address"
        raise ApiError(ErrorCode.ARGUMENT_INVALID, message)


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class VirtualHostAdminHandler(AdminHandler[VirtualHost]):
    """`/admin/vhosts/ID`: one host."""

    resource = VirtualHosts


class VirtualHostsAdminHandler(AdminListHandler[VirtualHost]):
    """`/admin/vhosts/`: all hosts."""

    resource = VirtualHosts
