"""Pushes a version of a function to hosts over ssh, and waits until it is active or a host has refused it.

It is the form for programs and schedules of `dts-admin functions deploy … --to …`; the version must be at the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from dts.errors import InvalidInput
from dts.model import Operation
from dts.runtime.logs import USER
from dts.server.audit.recorded import record_work
from dts.server.context import Context
from dts.server.hosts.rollouts import Rollout, get_rollout, list_hosts, start_rollout
from dts.server.hosts.select import select_hosts
from dts.server.versions.library import resolve
from dts.store import Store

_POLL = 0.2


async def main(
    context: Context,
    function: str,
    version: str,
    *,
    hosts: Sequence[str] = (),
    group: str = "",
    canary: str = "",
    timeout: float = 1800.0,
) -> dict[str, Any]:
    """Have a version on hosts by name or group; returns `state` and, by host, its state and why."""
    found = await resolve(context.store, function, version)
    chosen = tuple(host.id for host in await select_hosts(context.store, hosts, group))
    if canary and canary not in chosen:
        raise InvalidInput(f"the canary {canary[:64]} is none of the hosts")
    rollout = Rollout(function, found.hash, chosen, canary, USER.get(), round(time.time(), 3))
    await record_work(
        context.operations,
        Operation(0.0, USER.get(), "", "functions.rollout", function, ops={}, outcome=""),
        ops=lambda: {"version": found.hash, "hosts": list(chosen), "canary": canary},
        work=lambda: start_rollout(context.store, rollout),
        code_of=lambda error: type(error).__name__,
    )
    async with asyncio.timeout(timeout):
        state = await _until_ended(context.store, function)
    ended = await list_hosts(context.store, function)
    by_host = {each.host: {"state": each.state, "error": each.error} for each in ended}
    return {"state": state, "version": found.hash, "hosts": by_host}


async def _until_ended(store: Store, function: str) -> str:
    """Wait until no more is expected of the latest rollout; returns its state. Any server may be working on it."""
    while True:
        rollout = await get_rollout(store, function)
        if rollout is None or rollout.state != "running":
            return rollout.state if rollout is not None else "failed"
        await asyncio.sleep(_POLL)
