"""What this server is: version, host, process, back ends, plugins."""

from __future__ import annotations

import os
import platform
import socket
import time
from typing import Any

import psutil

from dts.server import plugins
from dts.server.context import Context
from dts.version import __version__


async def main(context: Context) -> dict[str, Any]:
    """Facts of the server process that runs this."""
    return {
        "version": __version__,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "uptime": round(time.time() - psutil.Process().create_time(), 1),
        "python": platform.python_version(),
        "store": type(context.store).__name__,
        "broker": context.broker.kind,
        "block_size": context.settings.block_size,
        "max_body": context.settings.max_body,
        "plugins": plugins.names(),
    }
