"""Runs a command on hosts over ssh; returns the exit status and the output by host.

It is the form for programs and schedules of what `dts-admin ssh` shows as it happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dts.errors import InvalidInput
from dts.model import Operation
from dts.runtime.logs import USER
from dts.server.audit.recorded import record_work
from dts.server.context import Context
from dts.server.hosts.command import run_command
from dts.server.hosts.events import HostEvent
from dts.server.hosts.everywhere import PARALLEL
from dts.server.hosts.select import select_hosts

_MOST_OUTPUT = 64 * 1024
"""Characters of a host's output that the result holds."""


async def main(
    context: Context,
    argv: Sequence[str],
    *,
    hosts: Sequence[str] = (),
    group: str = "",
    timeout: float = 60.0,
    parallel: int = PARALLEL,
) -> dict[str, dict[str, Any]]:
    """Run `argv`, a list of arguments, on hosts by name or group."""
    if isinstance(argv, str) or not all(isinstance(word, str) for word in argv):
        raise InvalidInput('argv is a list of texts, such as ["uptime", "-p"]: no shell takes a line apart')
    chosen = await select_hosts(context.store, hosts, group)
    output = dict.fromkeys((host.id for host in chosen), "")

    def keep(event: HostEvent) -> None:
        if event.event == "output":
            output[event.host] += event.text[: _MOST_OUTPUT - len(output[event.host])]

    asked = {"argv": list(argv), "hosts": [host.id for host in chosen], "timeout": timeout}
    ends = await record_work(
        context.operations,
        Operation(0.0, USER.get(), "", "ssh.run", group or ",".join(hosts)[:64], ops={}, outcome=""),
        ops=lambda: asked,
        work=lambda: run_command(context.ssh, chosen, argv, keep, timeout=timeout, parallel=parallel),
        code_of=lambda error: type(error).__name__,
    )
    return {
        end.host: {"status": end.status, "error": end.text, "output": output[end.host], "seconds": end.seconds}
        for end in ends
    }
