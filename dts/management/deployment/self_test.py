"""Tries a source out on this machine before it is deployed, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from dts.errors import InvalidInput
from dts.wire.archive import Source
from dts.wire.function_source import requirements_of

TIMEOUT = 120.0
"""Seconds for the import and `self_test()` together."""

_NO_SELF_TEST, _PACKAGE_MISSING = 3, 4  # exit statuses of dts.worker.child.code.try_out


async def try_out(source: Source, function: str, *, timeout: float = TIMEOUT) -> str:
    """Import a source, and run its `self_test()` if it has one; returns what came of that, as a sentence.

    Raises:
        InvalidInput: it cannot be imported, or its `self_test()` does not pass; the message has the traceback.
    """
    with tempfile.TemporaryDirectory(prefix="dts-deploy-") as folder:
        _write(Path(folder) / function.partition("/")[0], source)
        status, said = await _run([folder, function], timeout)
    missing = said.splitlines()[-1] if said else ""
    if status == _PACKAGE_MISSING and requirements_of(source):
        return f"not tested on this machine, which lacks what it requires: {missing}"
    if status == _NO_SELF_TEST:
        return "it can be imported; it has no self_test()"
    if status:
        raise InvalidInput(f"nothing was deployed: {function} does not pass on this machine:\n{said}")
    return "its self_test() passes"


async def _run(arguments: list[str], timeout: float) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dts.worker.child.code.try_out", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("DTS_")},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        return 1, f"it took more than {timeout:g} s to import and test"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return process.returncode or 0, output[-20_000:].decode(errors="replace").strip()


def _write(folder: Path, source: Source) -> None:
    for name, file in source.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        path.chmod(0o755 if file.executable else 0o644)
        os.utime(path, (1e9, 1e9))  # it came whole: nothing has to come to rest
