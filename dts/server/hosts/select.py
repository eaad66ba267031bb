"""Which hosts are meant: by name, by group, or all of them."""

from __future__ import annotations

from collections.abc import Sequence

from dts.errors import InvalidInput
from dts.model import VirtualHost, check_host_id
from dts.store import Store

MAX_NAMED = 1000
"""Hosts that one request may name."""


async def select_hosts(store: Store, ids: Sequence[str], group: str = "") -> list[VirtualHost]:
    """The records of the hosts that are named, and of those in a group, by id; each once.

    Raises:
        InvalidInput: none is meant, or one that is named is not on record.
    """
    if not ids and not group:
        raise InvalidInput("say which hosts: their names, or a group")
    found: dict[str, VirtualHost] = {}
    for host_id in ids:
        host = await store.get_record(VirtualHost, check_host_id(host_id))
        if host is None:
            raise InvalidInput(f"there is no host {host_id}: vhosts add {host_id} …")
        found[host.id] = host
    if group:
        members = await store.list_records(VirtualHost, where={"groups": group}, limit=None)
        if not members:
            raise InvalidInput(f"no host is in the group {group[:80]!r}: vhosts update HOST groups={group[:80]}")
        found.update((host.id, host) for host in members)
    return [found[host_id] for host_id in sorted(found)]
