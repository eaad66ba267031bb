"""`/admin/vhosts/`: hosts of the fleet that are reachable by ssh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta, Struct

from dts.model import VirtualHost, check_host_id
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import KeyText, RouteName, Text, changes, filters, initial, view

_KEYS = {"ssh_key": KeyText, "ssh_pem_cert": KeyText}


class VirtualHostFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of a host."""

    address: Annotated[str, Meta(max_length=255, pattern=r"^[A-Za-z0-9.:_-]*$(?!\n)")] = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = 22
    ssh_user: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$(?!\n)")] = "dts"
    host_key: Annotated[str, Meta(max_length=10_000)] = ""
    functions_dir: Annotated[str, Meta(max_length=4096)] = ""
    routes: tuple[RouteName, ...] = ()
    description: Text = ""


VirtualHostView = view(
    "VirtualHostView",
    VirtualHostFields,
    {"has_ssh_key": bool, "has_ssh_pem_cert": bool},
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
    filters = filters("VirtualHostFilters", VirtualHostFields)
    write_only = frozenset(_KEYS)

    def check_id(self, record_id: object) -> str:
        return check_host_id(record_id)

    def write_secrets(self, record: VirtualHost, secrets: Mapping[str, Any]) -> VirtualHost:
        seal = self.context.accounts.keys.seal
        sealed: dict[str, Any] = {name: seal(text.encode()) if text else b"" for name, text in secrets.items()}
        return replace(record, **sealed, address=record.address or record.id)

    def extra(self, record: VirtualHost) -> dict[str, Any]:
        return {"has_ssh_key": bool(record.ssh_key), "has_ssh_pem_cert": bool(record.ssh_pem_cert)}


class VirtualHostAdminHandler(AdminHandler[VirtualHost]):
    """`/admin/vhosts/ID`: one host."""

    resource = VirtualHosts


class VirtualHostsAdminHandler(AdminListHandler[VirtualHost]):
    """`/admin/vhosts/`: all hosts."""

    resource = VirtualHosts
