"""The same work on many hosts: so many at a time, and what fails on one keeps no other from it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from dts.errors import DtsError
from dts.model import VirtualHost
from dts.server.hosts.events import HostEvent, Report

logger = logging.getLogger(__name__)

PARALLEL = 16
"""Hosts that are worked on at a time, unless asked otherwise."""

Work = Callable[[VirtualHost], Awaitable[HostEvent]]
"""Does something on a host; returns its end."""


async def everywhere(hosts: Sequence[VirtualHost], work: Work, report: Report, *, parallel: int) -> list[HostEvent]:
    """Work on all hosts, `parallel` at a time; returns how it ended on each, in their order. Each end is reported."""
    turns = asyncio.Semaphore(parallel)

    async def one(host: VirtualHost) -> HostEvent:
        async with turns:
            end = await attempt(host, work)
        report(end)
        return end

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(host), name=f"host-{host.id}") for host in hosts]
    return [task.result() for task in tasks]


async def one_by_one(hosts: Sequence[VirtualHost], work: Work, report: Report) -> list[HostEvent]:
    """Work on hosts one after the other, up to the first on which it fails; what follows is not touched."""
    ends: list[HostEvent] = []
    failed = ""
    for host in hosts:
        if failed:
            end = HostEvent(host.id, "end", state="failed", text=f"not touched, since {failed} failed")
        else:
            end = await attempt(host, work)
            failed = host.id if end.failed else ""
        report(end)
        ends.append(end)
    return ends


async def attempt(host: VirtualHost, work: Work) -> HostEvent:
    """Work on one host; what goes wrong becomes its end."""
    begun = time.monotonic()
    try:
        return await work(host)
    except DtsError as error:
        return HostEvent(host.id, "end", state="failed", text=str(error), seconds=round(time.monotonic() - begun, 3))
