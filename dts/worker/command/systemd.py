"""Tells systemd about the life of the process: sd_notify(3), without a library."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import suppress

from dts.runtime.service import Service

logger = logging.getLogger(__name__)


class Notifier(Service):
    """READY=1 at its start, WATCHDOG=1 as often as is wanted, STOPPING=1 at its stop. Without systemd, nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    async def _start(self) -> None:
        if not self._address:
            return
        self.notify("READY=1")
        self._stack.callback(self.notify, "STOPPING=1")
        said = os.environ.get("WATCHDOG_USEC", "") or "0"
        microseconds = int(said) if said.isascii() and said.isdigit() else 0
        if not microseconds and said.strip("0"):
            logger.warning("WATCHDOG_USEC=%s is not a number: systemd is not told that this process is alive", said)
        if microseconds and os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._spawn(self._beat(microseconds / 2e6), "watchdog")

    def tell_reloading(self) -> None:
        """Say that a reload begins; READY=1 is to follow."""
        self.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def notify(self, state: str) -> None:
        """Send one state. Never raises: a service manager that is away is no reason to stop work."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), address)

    async def _beat(self, interval: float) -> None:
        while True:
            self.notify("WATCHDOG=1")
            await asyncio.sleep(interval)
