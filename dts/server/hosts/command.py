"""An administrator's command on hosts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Literal, cast

from dts.model import VirtualHost
from dts.server.hosts.events import HostEvent, Report
from dts.server.hosts.everywhere import PARALLEL, everywhere
from dts.server.ssh import SshConnections
from dts.server.ssh.connection import command_line


async def run_command(
    connections: SshConnections,
    hosts: Sequence[VirtualHost],
    argv: Sequence[str],
    report: Report,
    *,
    timeout: float,
    parallel: int = PARALLEL,
) -> list[HostEvent]:
    """Run a command on hosts; its output is reported as it comes, and how it ended on each host.

    Raises:
        InvalidInput: it is no command.
    """
    command_line(argv, timeout)  # refused before any host is touched

    async def run(host: VirtualHost) -> HostEvent:
        output = _OutputText(host.id, report)
        async with connections.use(host) as ssh:
            done = await ssh.run(argv, timeout=timeout, on_output=output.take)
        output.finish()
        text = f"took more than {timeout:g} s, so it was ended" if done.timed_out else ""
        state: Literal["done", "failed"] = "failed" if done.status else "done"
        return HostEvent(host.id, "end", state=state, text=text, status=done.status, seconds=done.seconds)

    return await everywhere(hosts, run, report, parallel=parallel)


class _OutputText:
    """Reports a command's output as text, whatever the bytes are and wherever they are cut."""

    def __init__(self, host: str, report: Report) -> None:
        self._host, self._report = host, report
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder(errors="replace") for name in ("stdout", "stderr")}

    def take(self, stream: str, chunk: bytes, *, final: bool = False) -> None:
        """Report some bytes of a stream."""
        if text := self._decoders[stream].decode(chunk, final):
            name = cast("Literal['stdout', 'stderr']", stream)
            self._report(HostEvent(self._host, "output", stream=name, text=text))

    def finish(self) -> None:
        """Report what is left of characters that were cut off."""
        for stream in self._decoders:
            self.take(stream, b"", final=True)
