"""`python -m dts`: server, daemons and a worker in one process tree, with nothing to install."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path

from dts import scaffold
from dts.config import Settings
from dts.first_steps import keep_credentials, next_steps
from dts.runtime.backoff import Backoff
from dts.runtime.options import load_process_settings, process_parser
from dts.runtime.process import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Shutdown, run
from dts.runtime.single import check_port, claim_folder
from dts.runtime.tasks import wait_first

logger = logging.getLogger("dts")

EXAMPLES = """\
examples:
  dts init DIR                   # makes DIR with settings and an example function, and ends
  python -m dts
  python -m dts --port 8080 --processes 4
  python -m dts --functions DIR  # runs the functions DIR/<namespace>/<function>.py, and registers them
then, in another terminal:
  dts-client text/upper in.txt out.json http://127.0.0.1:8000
"""

_STOP_TIMEOUT = 45.0
"""Seconds that a part gets to finish its work: a worker drains for `drain_timeout`, 30 s unless set otherwise."""

_PR_SET_PDEATHSIG = 1

ADMINISTRATOR = "admin"
"""The user that the first start of a server creates."""

_STEADY = 10.0
"""A part that ran for this many seconds before it died is started again at once."""


class Part:
    """A child process that is started again when it dies."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self._command = [sys.executable, "-m", *arguments]
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> int:
        """Run the part until it ends for a reason that a new start would not cure; returns its exit code."""
        backoff = Backoff(0.5, 10.0)
        while True:
            began = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # one system call, and this process has no other threads
            )
            code = await self._process.wait()
            if code in (EXIT_OK, EXIT_USAGE):
                return code
            if time.monotonic() - began > _STEADY:
                backoff.reset()
            pause = backoff.next_pause()
            logger.error("the %s ended with code %d; starting it again in %.1f s", self.name, code, pause)
            await asyncio.sleep(pause)

    async def stop(self, *, hurry: asyncio.Event) -> None:
        """Let the part finish and wait for its end; cut it short when `hurry` is set or it takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        ended = asyncio.create_task(process.wait())
        await wait_first(ended, hurry, timeout=_STOP_TIMEOUT)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await ended


def main() -> int:
    """Run everything until told to end; with `init DIR`, make a folder to run it from."""
    if sys.argv[1:2] == ["init"]:
        return scaffold.main(sys.argv[2:])
    parser = process_parser("python -m dts", "DTS on one machine: server, daemons and a worker.", EXAMPLES)
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8000)")
    parser.add_argument("--processes", type=int, help="children that run functions (default: one a processor)")
    parser.add_argument("--functions", metavar="DIR", help="the functions directory (default: the bundled one)")
    options = parser.parse_args()

    async def supervise(shutdown: Shutdown) -> int:
        settings = load_process_settings(options, {"server": {"host": options.host, "port": options.port}})
        # Before anything is started: a second worker would take the first one's jobs.
        claim_folder(settings.server.key_file.with_name("dts.pid"), "python -m dts")
        check_port(settings.server.host, settings.server.port)
        os.environ.setdefault("DTS_SERVER_DAEMONS", "all")
        if not settings.worker.server_url and settings.server.port:
            os.environ["DTS_WORKER_SERVER_URL"] = _own_url(settings)
        functions = options.functions or settings.worker.functions
        _register_functions_of(functions)
        common = [
            *(["-c", options.config] if options.config else []),
            *(["-d"] if options.dev else []),
            *(["--log-level", options.log_level] if options.log_level else []),
            *(["--log-format", options.log_format] if options.log_format else []),
        ]
        server = Part("server", ["dts.server", *common, *_given(options, "host", "port")])
        worker = Part("worker", ["dts.worker", *common, *_given(options, "processes", "functions")])
        tasks = [asyncio.create_task(part.keep_running(), name=part.name) for part in (server, worker)]
        asked = asyncio.create_task(shutdown.requested.wait())
        greeting = asyncio.create_task(_greet(settings, functions), name="greeting")
        await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        codes = [task.result() for task in tasks if task.done()]
        for task in (asked, greeting, *tasks):
            task.cancel()
        # The worker goes first: what it finishes while it drains, the server's porter still records.
        await worker.stop(hurry=shutdown.hurry)
        await server.stop(hurry=shutdown.hurry)
        return EXIT_OK if shutdown.requested.is_set() else next((code for code in codes if code), EXIT_FAILED)

    return run(supervise)


async def _greet(settings: Settings, functions: str) -> None:
    """When the server is ready, keep the administrator's credentials and say what to type next."""
    server = settings.server
    host = "127.0.0.1" if server.host in ("", "0.0.0.0") else "[::1]" if server.host == "::" else server.host
    backoff = Backoff(0.1, 1.0)
    while not await _is_ready(host.strip("[]"), server.port, server.base_path):
        await backoff.wait()
    url, secret = f"http://{host}:{server.port}{server.base_path}", server.admin_secret_file
    flags = f"--username {ADMINISTRATOR} --secret-file {secret}"
    if not secret.exists() or keep_credentials(ADMINISTRATOR, secret, url):
        flags = ""
    sys.stderr.write(next_steps(url, Path(functions) if functions else None, flags) + "\n")


async def _is_ready(host: str, port: int, base_path: str) -> bool:
    """Whether the server has all that it needs: its port is open before it has made the first administrator."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(f"GET {base_path}/health/ready HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def _register_functions_of(folder: str) -> None:
    """Have the server register the functions in the worker's folder, unless it was set up otherwise."""
    if folder:
        os.environ.setdefault("DTS_SERVER_FUNCTIONS", str(Path(folder).absolute()))


def _end_with_parent() -> None:
    """In a part, before it becomes its command: have the kernel end it when this process is killed (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _own_url(settings: Settings) -> str:
    """Where the worker of this process tree reaches its server."""
    host = settings.server.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{settings.server.port}{settings.server.base_path}"


def _given(options: object, *names: str) -> list[str]:
    """The flags that were given, to hand on."""
    flags: list[str] = []
    for name in names:
        value = getattr(options, name)
        if value is not None:
            flags += [f"--{name}", str(value)]
    return flags


if __name__ == "__main__":
    sys.exit(main())
